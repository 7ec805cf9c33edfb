"""The options that commands share, each declared once: for a parser, or a group of one."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.city import City

EDITION_NAMES = "humob2023, humob2024 or humob2025"
OWN_WEIGHTS = "folder of a run, or Hub id; unset: the weights that come with the package"


def add_city_options(parser: argparse._ActionsContainer, *also_cache_dir: str) -> None:
    """--city with --data_dir, or --data_path; --edition and --cache_dir, with other names of this one."""
    parser.add_argument("--city", help="city, by its name in the files")
    parser.add_argument("--data_dir", help="folder with the files of the city")
    add_data_path(parser, "a file or a folder of parts, in place of a city of a folder")
    parser.add_argument("--edition", help=f"{EDITION_NAMES}; unset: told from the file's name")
    parser.add_argument(
        *("--cache_dir", *also_cache_dir),
        dest="cache_dir",
        metavar="DIR",
        help="where prepared cities are kept, and found by later runs; unset: the cache of datasets",
    )


def add_data_path(parser: argparse._ActionsContainer, text: str, *also: str, required: bool = False) -> None:
    """--data_path; `also` are other names that are accepted."""
    parser.add_argument("--data_path", *also, dest="data_path", metavar="PATH", required=required, help=text)


def add_model(
    parser: argparse._ActionsContainer, text: str = "folder of a run, or Hub id", required: bool = True
) -> None:
    parser.add_argument("--model", "--model_path", dest="model", metavar="MODEL", required=required, help=text)


def add_device(parser: argparse._ActionsContainer, people: int = 8) -> None:
    """--batch_size, by default so many, and --device."""
    parser.add_argument("--batch_size", type=int, default=people, help=f"most people at a time (default {people})")
    parser.add_argument("--device", help="cpu, cuda, ...; unset: a GPU if there is one")


def add_poi(parser: argparse._ActionsContainer) -> None:
    """--poi"""
    parser.add_argument(
        "--poi", metavar="FILE", help="points of interest of the city, for a network that has a part for them"
    )


def open_chosen_city(args: argparse.Namespace) -> "City":
    """The city that the options of `add_city_options` say."""
    from ..data.city import open_city

    return open_city(
        args.city,
        args.data_dir,
        path=args.data_path,
        edition=args.edition,
        cache_dir=args.cache_dir,
        progress=True,
    )


def city_of(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_city_options` read, as keyword arguments of `predict` and its kind."""
    return {name: getattr(args, name) for name in ("city", "data_dir", "data_path", "edition", "cache_dir")}
