"""The YAML files that come with the package, by name: `history` is `configs/history.yaml`.

They lie in `configs/` at the top of the repository, and are installed as the data of `stmoe_hf.configs`.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
SUFFIX = ".yaml"


def configs_folder() -> Path:
    """Where they lie: in the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """Names for --config; those of accelerate are `accelerate/NAME`."""
    folder = configs_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob(f"*{SUFFIX}"))


def config_file(name: str) -> Path:
    """The file of this path, else the file of this name that comes with the package.

    Raises:
        ValueError: there is neither; with the names.
    """
    path = Path(name)
    if path.is_file():
        return path
    found = name.removesuffix(SUFFIX)
    if found in config_names():
        return configs_folder() / (found + SUFFIX)
    raise ValueError(
        f"there is no configuration file {name}; those that come with the package are {', '.join(config_names())}"
    )
