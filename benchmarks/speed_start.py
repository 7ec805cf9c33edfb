"""How long the package and its commands take to start, beside torch and transformers' models alone.

python benchmarks/speed_start.py
python benchmarks/speed_start.py --turns 1
"""

import subprocess
import sys
import time

import numpy as np

from common import ROOT, arguments, machine, row, table

COMMANDS = {
    "import torch and transformers' models": [
        "-c",
        "import torch; from transformers import AutoModel, AutoProcessor, PreTrainedModel;"
        "import transformers.models.bert.modeling_bert",
    ],
    "import stmoe_hf": ["-c", "import stmoe_hf"],
    "python -m stmoe_hf --help": ["-m", "stmoe_hf", "--help"],
    "python train_hf.py --help": ["train_hf.py", "--help"],
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int, default=3, help="runs of each after the first (default 3)")
    args = parser.parse_args()
    print(f"{machine('torch', 'transformers')}\n")
    seconds: dict[str, list[float]] = {title: [] for title in COMMANDS}
    for _ in range(1 + args.turns):  # the first fills the cache of files
        for title, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            seconds[title].append(time.perf_counter() - start)
    table("start", "s")
    for title, times in seconds.items():
        row(title, f"{np.median(times[1:]):.1f}")


if __name__ == "__main__":
    main()
