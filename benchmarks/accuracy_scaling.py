"""What more people, more numbers, longer training and more experts bring to weights that are trained on one city.

    python benchmarks/accuracy_scaling.py --city_dir CITY_A --data_dir HUMOB --plot scaling.png

CITY_A holds `cityA_groundtruthdata.csv.gz` of HuMob 2024, HUMOB the files of B and D with all 75 days. Every run is
the recipe of the shipped weights (`pretrained.py`) on city A for a quarter of the epochs, with one change, and is
scored on everybody of B and D, days 45-59: nats a record, asked as the challenge asks, told what the other people did
before the cut. Fewer people are drawn at random and trained on for as many epochs. A run that is there is not trained
again.
"""

import csv
import gzip
from pathlib import Path

import numpy as np

import stmoe_hf
from city_field import outcome
from common import arguments, machine, row, table
from pretrained import EVERYBODY, train
from stmoe_hf.data.windows import PredictionWindows, WindowShape
from stmoe_hf.model.processing_stmoe_bert import MobilityProcessor
from stmoe_hf.prediction.load import load_model

CUT_DAY = 45
FILE = "cityA_groundtruthdata.csv.gz"
WHOLE = "the recipe"
EPOCHS = 6  # those of the weights of the package took four times as long
# What varies -> value -> what differs from the recipe; the recipe itself stands at its own value of each.
PLAN: dict[str, dict[float, list[str]]] = {
    "people": {25: [], 50: [], 100: [], 212: []},
    "hidden size": {
        32: ["--hidden_size", "32", "--intermediate_size", "128"],
        64: [],
        96: ["--hidden_size", "96", "--intermediate_size", "384"],
    },
    "epochs": {n: [] if n == EPOCHS else ["--num_train_epochs", str(n)] for n in (3, EPOCHS, 12, 24)},
    "experts": {0: ["--num_experts", "0"], 4: [], 8: ["--num_experts", "8"], 16: ["--num_experts", "16"]},
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--city_dir", required=True, help="folder with the file of city A")
    parser.add_argument("--data_dir", required=True, help="folder with the files of B and D")
    parser.add_argument("--output_dir", default="runs/scaling")
    parser.add_argument("--cities", nargs="+", default=["B", "D"])
    parser.add_argument(
        "--only", nargs="+", default=list(PLAN), choices=list(PLAN), metavar="WHAT", help="what varies"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the runs and of who is drawn (default 1)")
    parser.add_argument("--plot", metavar="FILE", help="a picture (matplotlib)")
    args = parser.parse_args()
    print(machine("torch", "transformers"))
    told = {name: windows_of(name, args.data_dir) for name in args.cities}
    found: dict[str, list[tuple[float, list[float]]]] = {}
    table("", "", "parameters", *(f"{name}, {what}" for name in args.cities for what in ("nats", "of a new cell")))
    for what in args.only:
        for value, options in PLAN[what].items():
            folder = trained(what, value, options, args)
            nats, cells, parameters = [], [], 0
            for windows in told.values():
                model = load_model(str(folder), windows.city.grid, windows.city.calendar, "cpu")
                records, of_kinds, _, _ = outcome(model, windows, alone=False)
                nats.append(of_kinds.sum() / records.sum())
                cells.append(of_kinds[1:].sum() / records[1:].sum())
                parameters = model.num_parameters()
            found.setdefault(what, []).append((value, nats))
            both = (f"{value:.4f}" for pair in zip(nats, cells, strict=True) for value in pair)
            row(what, value if value or what != "experts" else "dense", f"{parameters:,}", *both)
    if args.plot:
        plot(found, args.cities, args.plot)


def windows_of(name: str, data_dir: str) -> PredictionWindows:
    city = stmoe_hf.open_city(name, data_dir)
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    return PredictionWindows(city, np.arange(len(city)), CUT_DAY, WindowShape(15), processor, city_field=True)


def trained(what: str, value: float, options: list[str], args) -> Path:
    """A finished run of a variant."""
    people = int(value) if what == "people" and value != max(PLAN["people"]) else None
    name = f"{what.replace(' ', '-')}-{value}" if options or people else WHOLE.replace(" ", "-")
    folder = Path(args.output_dir) / f"{name}-seed{args.seed}"
    data_dir = args.city_dir if people is None else some_of(args.city_dir, people, args)
    return train(folder, data_dir, args.seed, *EVERYBODY, "--num_train_epochs", str(EPOCHS), *options)


def some_of(city_dir: str, people: int, args) -> Path:
    """A folder with the file of so many people of the city."""
    folder = Path(args.output_dir) / f"{people}-people-seed{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(Path(city_dir) / FILE, "rt", newline="") as file:
        header, *rows = csv.reader(file)
    uid = header.index("uid")
    everybody = sorted({one[uid] for one in rows}, key=int)
    kept = set(np.random.default_rng(args.seed).permutation(everybody)[:people].tolist())
    with gzip.open(folder / FILE, "wt", newline="") as file:
        csv.writer(file).writerows([header, *(one for one in rows if one[uid] in kept)])
    return folder


def plot(found: dict[str, list[tuple[float, list[float]]]], cities: list[str], file: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(3.2 * len(found), 2.8), sharey=True, layout="constrained")
    for axis, (what, rows) in zip(np.atleast_1d(axes), found.items(), strict=True):
        values, nats = zip(*rows, strict=True)
        for name, of_city in zip(cities, np.transpose(nats), strict=True):
            axis.plot(range(len(values)), of_city, "o-", label=f"city {name}")
        axis.set_xticks(range(len(values)), [str(value) if value else "dense" for value in values])
        axis.set_xlabel(f"{what} of city A" if what == "people" else what)
    np.atleast_1d(axes)[0].set_ylabel("nats a record, days 45-59")
    np.atleast_1d(axes)[0].legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
