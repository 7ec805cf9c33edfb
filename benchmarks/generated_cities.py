"""The table of docs/generated_cities.md: statistics of generated cities beside those of the real ones.

python benchmarks/generated_cities.py --users 2000
"""

import pandas as pd

from common import arguments, row, table
from stmoe_hf.data.statistics import TARGETS, statistics
from stmoe_hf.data.synthetic import generate


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--cities", nargs="+", default=["A", "B", "C", "D"])
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    found = {}
    for city in args.cities:
        parts = [pd.DataFrame(part) for part in generate(city, args.users, seed=args.seed)]
        found[city] = statistics(pd.concat(parts, ignore_index=True))
    table("statistic", "real cities", *(f"generated {city}" for city in args.cities))
    for name, target in TARGETS.items():
        values = [
            f"{found[city][name]:,.0f}" if target.low > 2 else f"{found[city][name]:.3f}" for city in args.cities
        ]
        row(target.text, target.real, *values)


if __name__ == "__main__":
    main()
