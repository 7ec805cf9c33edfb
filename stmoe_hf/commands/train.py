"""`stmoe train --city A --data_dir DIR`: the same as train_hf.py, with a help of its own."""

from ..training.run import main

__all__ = ["main"]
