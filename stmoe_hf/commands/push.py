"""`stmoe push --model runs/cityB --repo_id org/stmoe-bert-cityB [--private] [--dry_run DIR]`; also push_to_hub.py"""

import argparse

from .options import add_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "folder of the run")
    parser.add_argument("--repo_id", required=True, help="organisation/name on the Hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--datasets", nargs="+", default=[], metavar="NAME", help="names on the Hub of what it was trained on"
    )
    parser.add_argument("--dry_run", metavar="DIR", help="write what would be uploaded to a new folder instead")


def run(args: argparse.Namespace) -> int:
    from ..hub.publish import export, push  # heavy, and no part of the help

    if args.dry_run:
        folder = export(args.model, args.dry_run, args.repo_id, datasets=args.datasets)
        print(f"what would be uploaded to {args.repo_id} is in {folder}")
    else:
        print(f"the model is at {push(args.model, args.repo_id, private=args.private, datasets=args.datasets)}")
    return 0
