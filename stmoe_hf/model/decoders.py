"""What the ways of choosing cells are called; `decoding.py` and `prediction/day_decoding.py` are the ways."""

SLOT_DECODERS = ("mode", "geobleu", "dtw", "balanced")
DECODERS = (*SLOT_DECODERS, "day")
