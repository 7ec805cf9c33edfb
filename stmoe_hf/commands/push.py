"""`stmoe push --model runs/cityB --repo_id org/stmoe-bert-cityB`, or `--space org/app`; also push_to_hub.py"""

import argparse

from .options import add_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "folder of the run; of a Space, Hub id of the model that it uses", required=False)
    parser.add_argument("--repo_id", help="organisation/name on the Hub of the model")
    parser.add_argument("--space", metavar="ORG/NAME", help="publish the app, as a Space of this name, not a model")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--datasets", nargs="+", default=[], metavar="NAME", help="names on the Hub of what it was trained on"
    )
    parser.add_argument("--dry_run", metavar="DIR", help="write what would be uploaded to a new folder instead")


def run(args: argparse.Namespace) -> int:
    from ..hub.publish import export, push  # heavy, and no part of the help
    from ..hub.space import export_space, push_space

    name = args.space or args.repo_id
    _refuse(args)
    if args.dry_run:
        if args.space:
            folder = export_space(args.dry_run, args.space, args.model)
        else:
            folder = export(args.model, args.dry_run, args.repo_id, datasets=args.datasets)
        print(f"what would be uploaded to {name} is in {folder}")
    elif args.space:
        print(f"the app is at {push_space(args.space, args.model, private=args.private)}")
    else:
        print(f"the model is at {push(args.model, args.repo_id, private=args.private, datasets=args.datasets)}")
    return 0


def _refuse(args: argparse.Namespace) -> None:
    """Raise ValueError if what is to be published is not told, or told twice."""
    if args.space and args.repo_id:
        raise ValueError(
            f"--space publishes the app and --repo_id a model, one a call: publish the model first, then the app with"
            f" --space {args.space} --model {args.repo_id}"
        )
    if not args.space and not (args.repo_id and args.model):
        raise ValueError("say what to publish: a model with --model RUN --repo_id ORG/NAME, or the app with --space")
