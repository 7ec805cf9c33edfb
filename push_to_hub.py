"""Publish a run: `push_to_hub.py --model runs/cityB --repo_id org/stmoe-bert-cityB [--private] [--dry_run DIR]`.

The app as a Space: `push_to_hub.py --space org/name [--model org/stmoe-bert-cityB]`. The same as `stmoe push`.
"""

import sys

from stmoe_hf.__main__ import main as stmoe


def main() -> int:
    return stmoe(["push", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
