"""Train ST-MoE-BERT on a city, predict and score it: `train_hf.py --city A --data_dir DIR` (`--help` for the rest)."""

import sys

from stmoe_hf.training.run import main

if __name__ == "__main__":
    sys.exit(main())
