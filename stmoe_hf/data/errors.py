"""The error of bad data: what is wrong, where, and what to do."""


class DataError(ValueError):
    """Data that cannot be used; the message names file, line, uid, day or slot."""
