"""Checkpoints of a run: each carries a list of its files; which one is whole, and what is wrong with one that is not.

The list is written last, with the size and the checksum of every file, and an older checkpoint is removed only then.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.files import open_aside

FILES = "checkpoint_files.json"
STATE = "trainer_state.json"
# What training goes on from; without one of these it would go on silently, to other weights.
NEEDED = {
    "model*.safetensors": "the weights",
    "optimizer*": "the state of the optimizer",
    "scheduler.pt": "the state of the learning rate",
    "rng_state*.pth": "the random state",
    STATE: "the state of the training",
}
CHUNK = 1 << 22


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the last one first."""
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir() and _step(path) is not None]
    return sorted(found, key=lambda path: _step(path) or 0, reverse=True)


def _step(path: Path) -> int | None:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else None


def write_list(checkpoint: Path) -> None:
    """Write the list of the files of a checkpoint, which says that it is whole."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != FILES)
    listed = {str(path.relative_to(checkpoint)): [path.stat().st_size, _checksum(path)] for path in files}
    with open_aside(checkpoint / FILES) as file:
        file.write(json.dumps(listed, indent=2) + "\n")


def what_is_wrong(checkpoint: Path) -> str | None:
    """What a checkpoint lacks or which of its files is damaged, in words; None if it is whole.

    One without a list, of an earlier version, is taken if it has all that is needed and its state can be read.
    """
    try:
        json.loads((checkpoint / STATE).read_text())
    except FileNotFoundError:
        return "it was cut off while it was written"
    except (OSError, ValueError):
        return f"{STATE}, the state of the training, is damaged"
    for pattern, what in NEEDED.items():
        if not any(checkpoint.glob(pattern)):
            return f"it has no {pattern}, {what}"
    try:
        listed = json.loads((checkpoint / FILES).read_text())
        return next((wrong for name, is_ in listed.items() if (wrong := _wrong(checkpoint, name, *is_))), None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{FILES}, the list of its files, is damaged"


def _wrong(checkpoint: Path, name: str, size: int, checksum: int) -> str | None:
    path = checkpoint / name
    if not path.is_file():
        return f"it has no {name}"
    if path.stat().st_size != size:
        return f"{name} has {path.stat().st_size} bytes in place of {size}"
    return None if _checksum(path) == checksum else f"{name} is damaged: its checksum is another"


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
