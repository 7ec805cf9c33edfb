"""Publish a run: `push_to_hub.py --model runs/cityB --repo_id org/stmoe-bert-cityB [--private] [--dry_run DIR]`."""

import argparse
import sys

from stmoe_hf.hub.publish import export, push


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the run")
    parser.add_argument("--repo_id", required=True, help="organisation/name on the Hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry_run", metavar="DIR", help="write what would be uploaded to a new folder instead")
    args = parser.parse_args()
    try:
        if args.dry_run:
            print(f"what would be uploaded to {args.repo_id} is in {export(args.model, args.dry_run, args.repo_id)}")
        else:
            print(f"the model is at {push(args.model, args.repo_id, private=args.private)}")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
