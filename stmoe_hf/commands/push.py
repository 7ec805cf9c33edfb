"""`stmoe push --model runs/cityB --repo_id org/stmoe-bert-cityB [--private] [--dry_run DIR]`; also push_to_hub.py"""

import argparse

from ..hub.publish import export, push
from .options import add_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "folder of the run")
    parser.add_argument("--repo_id", required=True, help="organisation/name on the Hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry_run", metavar="DIR", help="write what would be uploaded to a new folder instead")


def run(args: argparse.Namespace) -> int:
    if args.dry_run:
        print(f"what would be uploaded to {args.repo_id} is in {export(args.model, args.dry_run, args.repo_id)}")
    else:
        print(f"the model is at {push(args.model, args.repo_id, private=args.private)}")
    return 0
