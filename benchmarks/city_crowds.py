"""Crowds and flows: what forecasts of many people together are worth, beside "as last week" and without other people.

    python benchmarks/city_crowds.py --data_dir HUMOB --models stmoe_hf/pretrained RUN_OF_SEED_2 --cut_day 45

HUMOB holds the files of B and D with all 75 days. The people of a city are forecast for the 15 days from the cut on,
each slot from the person's history alone, and counted in squares in the slots in which they were seen: crowds hour by
hour, flows by the day, these from the probabilities (the least movement that they allow) and from drawn days. A
network with a city field is asked twice: told of the others and told of nobody. Prints the measures of `stmoe crowds`
and `stmoe flows` (`stmoe_hf/report/compare.py`), means over the models.
"""

import numpy as np
import pandas as pd

import stmoe_hf
from common import arguments, machine, row, table
from stmoe_hf.data.city import City
from stmoe_hf.data.windows import PredictionWindows, WindowShape
from stmoe_hf.model.processing_stmoe_bert import MobilityProcessor
from stmoe_hf.prediction.forecast import Asked, Forecaster, ForecastSettings, to_table
from stmoe_hf.prediction.load import load_model
from stmoe_hf.report.areas import squares
from stmoe_hf.report.compare import as_last_week, compare
from stmoe_hf.report.crowds import KEYS, crowds
from stmoe_hf.report.flows import PAIR, flows
from stmoe_hf.report.places import Places, as_places

SIDES = (1, 2, 8)  # of the squares, in cells
CELLS_A_SLOT = 150  # what is named of the probabilities of a slot
SAMPLES = 24
DAYS = 15


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data_dir", required=True, help="folder with the files of B and D")
    parser.add_argument("--models", nargs="+", default=["stmoe_hf/pretrained"], help="folders of models, one a seed")
    parser.add_argument("--cities", nargs="+", default=["B", "D"])
    parser.add_argument("--cut_day", type=int, default=45, help="first day that is forecast (default 45)")
    args = parser.parse_args()
    print(machine("torch"))
    for name in args.cities:
        city = stmoe_hf.open_city(name, args.data_dir)
        processor = MobilityProcessor.for_data(city.grid, city.calendar)
        windows = PredictionWindows(city, np.arange(len(city)), args.cut_day, WindowShape(DAYS), processor)
        records = city.to_pandas()
        asked = records[records["d"].between(args.cut_day, args.cut_day + DAYS - 1)]
        last_week = as_last_week(records[records["d"] < args.cut_day], np.unique(asked["d"]))
        rows = {"as last week": [as_places(last_week, city.grid, city.calendar)]}
        for model in args.models:
            network = load_model(model, city.grid, city.calendar, "cpu")
            for told in (True, False) if getattr(network.config, "city_field", False) else (False,):
                title = "told of the others" if told else "told of nobody"
                rows.setdefault(title, []).append(forecast(network, windows, told))
        truth = as_places(asked, city.grid, city.calendar)
        people = f"{len(windows)} people, days {args.cut_day} to {args.cut_day + DAYS - 1}, {len(args.models)} models"
        print(f"\nCity {name}, {people}: common part, of crowds also Jensen-Shannon divergence\n")
        sides = [f"{side * city.grid.cell_km:g} km" for side in SIDES]
        whats = ("crowds", "flows", "flows of drawn days")
        table("", *(f"{what}, {side}" for what in whats for side in sides))
        for title, forecasts in rows.items():
            row(title, *texts([scores(one, truth, city) for one in forecasts]))


def forecast(network, windows: PredictionWindows, told: bool) -> Places:
    """Probabilities and drawn days of the slots in which people were seen."""
    city, tables = windows.city, []
    asked = [windows.asked_for(window) for window in range(len(windows))]
    questions = [Asked(int(row), one["d"], one["t"]) for row, one in zip(windows.rows, asked, strict=True)]
    for settings in (ForecastSettings(top_k=CELLS_A_SLOT), ForecastSettings(samples=SAMPLES)):
        forecaster = Forecaster(network, city, city.calendar, settings, until=windows.cut_days, told_of_others=told)
        tables.append(to_table(list(forecaster.answers(questions)), city, city.calendar))
    return as_places(pd.concat(tables, ignore_index=True), city.grid, city.calendar)


def scores(places: Places, truth: Places, city: City) -> list[dict[str, float]]:
    """Of crowds, of flows and of flows of drawn days, by the side of the squares."""
    found = []
    chances = Places(places.chances)
    for side in SIDES:
        these, true = (crowds(one, *of_city(city, side), min_people=0) for one in (chances, truth))
        found.append(compare(these, true, KEYS, "people"))
    for one in (chances, places):
        for side in SIDES:
            these, true = (flows(some, *of_city(city, side), by="day", min_people=0) for some in (one, truth))
            found.append(compare(these, true, ["d", *PAIR], "moves"))
    return found


def of_city(city: City, side: int) -> tuple:
    return city.grid, city.calendar, squares(city.grid, side)


def texts(of_models: list[list[dict[str, float]]]) -> list[str]:
    """Means over the models; the divergence of crowds only."""
    common, divergence = (
        np.mean([[one[measure] for one in scores] for scores in of_models], axis=0)
        for measure in ("common_part", "jensen_shannon")
    )
    more = [f", {value:.4f}" for value in divergence[: len(SIDES)]] + [""] * 2 * len(SIDES)
    return [f"{value:.4f}{text}" for value, text in zip(common, more, strict=True)]


if __name__ == "__main__":
    main()
