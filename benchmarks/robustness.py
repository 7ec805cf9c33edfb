"""What kills and damaged files do to a run: trainings that are killed at random, and models that are tampered with.

    python benchmarks/robustness.py --kills 20 --tampers 100

Kills: a small training on a generated city is killed (SIGKILL) at a random moment, once or more, and goes on with
--resume; in the end its weights and results must be those of a training that was never broken off.

Tampers: of a finished run one file is damaged (bits flipped, cut off, a tensor or a setting removed, made NaN or
infinite, another grid); `predict` must then refuse it in one line, or predict what the whole model does. A flipped bit
that leaves another finite weight cannot be told from a weight: such cases are counted by themselves. Likewise of a
checkpoint, from which --resume must refuse to go on, or end with the same weights.

The exit status is 1 if anything else happened.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from common import arguments
from stmoe_hf.data.synthetic import synthesize

SIZES = (
    "--hidden_size 16 --num_hidden_layers 2 --num_attention_heads 2 --intermediate_size 32 --num_experts 4"
    " --location_embedding_size 4 --cell_head false --num_train_epochs 4 --per_device_train_batch_size 4"
    " --learning_rate 5e-3 --test_fraction 0.3 --validation_users 2 --use_cpu true --disable_tqdm true"
).split()
WEIGHTS = "model.safetensors"
OF_A_SESSION = ("runtime", "per_second")


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--tampers", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        synthesize("B", 12, seed=1, output_dir=folder / "data")
        start = time.monotonic()
        done = stmoe("train", *training(folder, "whole"))
        seconds = time.monotonic() - start
        if done.returncode:
            print(done.stderr)
            return 1
        faults = kills(folder, args.kills, seconds, chance) + tampers(folder, args.tampers, chance)
    print("\n".join(faults) if faults else "nothing else happened")
    return 1 if faults else 0


def stmoe(command: str, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "stmoe_hf", command, *options], capture_output=True, text=True)


def training(folder: Path, name: str) -> list[str]:
    where = ["--city", "B", "--data_dir", str(folder / "data"), "--cache_dir", str(folder / "cache")]
    return [*where, "--output_dir", str(folder / name), *SIZES]


def kills(folder: Path, count: int, seconds: float, chance: random.Random) -> list[str]:
    faults, moments = [], Counter()
    for number in range(count):
        run, killed = folder / f"killed-{number}", 0
        while True:
            command = [sys.executable, "-m", "stmoe_hf", "train", *training(folder, run.name), "--resume"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                # Twice at most, so that each training comes to its end.
                process.wait(timeout=chance.uniform(0.2, 1.0) * seconds if killed < 2 else None)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
        said = process.stderr.read() if process.stderr else ""
        if process.returncode:
            faults.append(f"kill {number}: --resume ended with {process.returncode}: {said.strip().splitlines()[-1:]}")
        elif differ := differences(folder / "whole", run):
            faults.append(f"kill {number}: after {killed} kills {differ}")
        moments[killed] += 1
        shutil.rmtree(run)
    print(f"{count} trainings, killed 0, 1 or 2 times: {dict(sorted(moments.items()))}")
    return faults


def differences(whole: Path, other: Path) -> str:
    """What of two runs is not the same; nothing if all is."""
    ours, theirs = load_file(whole / WEIGHTS), load_file(other / WEIGHTS)
    if any(not torch.equal(ours[name], theirs[name]) for name in ours):
        return "the weights differ"
    results = [json.loads((run / "all_results.json").read_text()) for run in (whole, other)]
    some = set(results[0]) & set(results[1])
    wrong = [n for n in some if not any(w in n for w in OF_A_SESSION) and results[0][n] != results[1][n]]
    left = [path.name for path in other.rglob("*.part")]
    return f"the results differ: {wrong}" if wrong else f"these are left: {left}" if left else ""


def tampers(folder: Path, count: int, chance: random.Random) -> list[str]:
    faults, outcomes = [], Counter()
    whole = predicted(folder, folder / "whole")
    for number in range(count):
        run = folder / f"tampered-{number}"
        shutil.copytree(folder / "whole", run)
        if number % 4 == 3:
            what, outcome = tamper_checkpoint(folder, run, chance)
        else:
            what, finite = tamper_model(run, chance)
            outcome = outcome_of(predicted(folder, run), whole, finite)
        outcomes[f"{what}: {outcome}"] += 1
        if outcome.startswith("FAULT"):
            faults.append(f"tamper {number}, {what}: {outcome}")
        shutil.rmtree(run)
    for name, times in sorted(outcomes.items()):
        print(f"{times:5} {name}")
    return faults


def tamper_model(run: Path, chance: random.Random) -> tuple[str, bool]:
    """Damage one file of a model. Returns what was done, and whether it may leave other finite weights."""
    kind = chance.choice(["bit", "cut", "tensor gone", "tensor added", "nan", "infinite", "setting gone", "setting"])
    if kind in ("bit", "cut"):
        file = run / chance.choice([WEIGHTS, "config.json", "processor_config.json"])
        damage(file, kind, chance)
        return f"{kind} of {file.name}", True
    if kind.startswith("setting"):
        file = run / chance.choice(["config.json", "processor_config.json"])
        values = json.loads(file.read_text())
        name = chance.choice(sorted(values))
        if kind == "setting":
            values[name] = chance.choice([None, -1, 1e30, float("nan"), "text", [], {}, 7])
        else:
            del values[name]
        file.write_text(json.dumps(values))
        return f"{kind} of {file.name}", True
    weights = load_file(run / WEIGHTS)
    name = chance.choice(sorted(weights))
    if kind == "tensor gone":
        del weights[name]
    elif kind == "tensor added":
        weights["another"] = torch.ones(2)
    else:
        weights[name].view(-1)[0] = float("nan") if kind == "nan" else float("inf")
    save_file(weights, run / WEIGHTS, metadata={"format": "pt"})
    return kind, False


def tamper_checkpoint(folder: Path, run: Path, chance: random.Random) -> tuple[str, str]:
    last, first = sorted(run.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))[:2]
    shutil.rmtree(last)
    file = chance.choice(sorted(path for path in first.iterdir() if path.is_file()))
    kind = chance.choice(["bit", "cut", "gone"])
    if kind == "gone":
        file.unlink()
    else:
        damage(file, kind, chance)
    done = stmoe("train", *training(folder, run.name), "--resume")
    what = f"checkpoint, {kind} of {file.name}"
    if is_refusal(done):
        return what, "refused"
    if done.returncode or differences(folder / "whole", run):
        return what, f"FAULT {done.returncode} {done.stderr.strip().splitlines()[-1:]}"
    return what, "the same in the end"


def damage(file: Path, kind: str, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    place = chance.randrange(len(content))
    if kind == "cut":
        del content[place:]
    else:
        content[place] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def predicted(folder: Path, run: Path) -> subprocess.CompletedProcess | str:
    """The prediction of a run's model for everybody, or the process that ended without one."""
    output = folder / "predicted.csv"
    where = ["--city", "B", "--data_dir", str(folder / "data"), "--cache_dir", str(folder / "cache")]
    done = stmoe("predict", "--model", str(run), *where, "--plain", "--output", str(output), "--device", "cpu")
    if done.returncode:
        return done
    text = output.read_text()
    output.unlink()
    return text


def outcome_of(answer: subprocess.CompletedProcess | str, whole: str, may_differ: bool) -> str:
    if isinstance(answer, str):
        return "the same" if answer == whole else "another finite value" if may_differ else "FAULT other cells"
    return "refused" if is_refusal(answer) else f"FAULT {answer.returncode} {answer.stderr.strip().splitlines()[-1:]}"


def is_refusal(done: subprocess.CompletedProcess) -> bool:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return done.returncode == 1 and len(errors) == 1 and "Traceback" not in done.stderr


if __name__ == "__main__":
    sys.exit(main())
