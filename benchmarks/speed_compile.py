"""torch.compile of a training step: graph breaks, time and peak memory beside the step as it is.

python benchmarks/speed_compile.py
python benchmarks/speed_compile.py --config history --seconds 1
"""

from common import Side, ratio, take_turns, timing_arguments
from workloads import print_machine, train

SIZE = (8, 300, 100)


def main() -> None:
    parser = timing_arguments(__doc__, 20)
    parser.add_argument("--config", default="base", help="of configs/ (default base)")
    args = parser.parse_args()
    print_machine()
    plain, compiled = Side(train, args.config, *SIZE), Side(train, args.config, *SIZE, compile=True)
    take_turns({"as it is": plain, "compiled": compiled}, args.seconds)
    print(
        f"torch.compile of a training step of {args.config}.yaml: {ratio(plain, compiled):.2f} times as fast,"
        f" {compiled.facts.get('breaks', '?')} graph breaks, peak {plain.mb:.0f} and {compiled.mb:.0f} MB"
    )


if __name__ == "__main__":
    main()
