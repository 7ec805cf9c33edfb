"""What the city field costs: a forecast by the weights of the package, told of the others, told of nobody, without it.

python benchmarks/speed_field.py --data_dir HUMOB
python benchmarks/speed_field.py --data_dir HUMOB --decoder day --days 7 --people 8 --turns 3

HUMOB holds the file of the city. "Without the field" is the same network without the part and with a gate as at its
start; time does not depend on what a gate has learned. All sides run in one process and in turns, and what is counted
is the time of the processor, so that the ratios hold on a busy machine; a figure is a median.
"""

import copy
import time

import numpy as np
import torch

import stmoe_hf
from common import arguments, row, table
from stmoe_hf import STMoEBertForMobility
from stmoe_hf.prediction.forecast import Forecaster, ForecastSettings, ask, extended, first_days, load_forecaster
from workloads import print_machine


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data_dir", required=True, help="folder with the file of the city")
    parser.add_argument("--city", default="B")
    parser.add_argument("--from_day", type=int, default=60, help="first day that is forecast (default 60)")
    parser.add_argument("--days", type=int, default=4, help="how many (default 4)")
    parser.add_argument(
        "--decoder", choices=["five", "day"], default="five", help="five cells a slot, or a planned day"
    )
    parser.add_argument("--people", type=int, default=24, help="default 24")
    parser.add_argument("--turns", type=int, default=7, help="default 7")
    args = parser.parse_args()
    print_machine()
    sides = forecasters(args)
    seconds = {name: np.empty(args.turns) for name in sides}
    for turn in range(-1, args.turns):  # the first warms up, and is written over by the last
        for name, (forecaster, questions) in sides.items():
            start = time.process_time()
            for _ in forecaster.answers(questions):
                pass
            seconds[name][turn] = time.process_time() - start
    least = seconds[next(reversed(sides))]
    table(f"{args.people} people of {args.city}, {args.days} days, {args.decoder}", "seconds", "people/s", "times")
    for name, taken in seconds.items():
        middle = np.median(taken)
        row(name, f"{middle:.2f}", f"{args.people / middle:.1f}", f"{np.median(taken / least):.2f}")


def forecasters(args) -> dict[str, tuple[Forecaster, list]]:
    """The sides by name, each with what it is asked."""
    settings = ForecastSettings(args.days, args.from_day, top_k=5 if args.decoder == "five" else 1)
    city = stmoe_hf.open_city(args.city, args.data_dir)
    first = first_days(city, settings)
    calendar = extended(city.calendar, args.from_day + args.days - 1)
    network = load_forecaster(None, city.grid, calendar, settings, "cpu")
    config = copy.deepcopy(network.config)
    config.city_field = False
    without = STMoEBertForMobility(config)
    without.load_state_dict(network.state_dict(), strict=False)  # all but the gate
    questions = ask(city, settings, first)[: args.people]

    def side(model: torch.nn.Module, told: bool) -> tuple[Forecaster, list]:
        return Forecaster(model, city, calendar, settings, first, told_of_others=told), questions

    return {
        "told of the others": side(network, True),
        "told of nobody": side(network, False),
        "without the field": side(without, False),
    }


if __name__ == "__main__":
    main()
