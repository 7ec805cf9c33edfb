"""Make the weights that come with the package: `stmoe_hf/pretrained/`.

    python benchmarks/pretrained.py --data_dir CITY_A --runs_dir runs/pretrained --output_dir stmoe_hf/pretrained

CITY_A holds `cityA_groundtruthdata.csv.gz` of HuMob 2024, the only city that these weights see. Two runs of the same
recipe: one holds days 17 to 31 of three people in ten out, to fit the temperature of the probabilities; the other is
trained on everything and becomes the weights. A run that is there is not trained again.
"""

import argparse
import json
import shutil
from pathlib import Path

from transformers import AutoModel, AutoProcessor

import stmoe_hf
from stmoe_hf.data.splits import split_users
from stmoe_hf.data.windows import PredictionWindows, WindowShape
from stmoe_hf.evaluation.calibration import best_temperature, nll_by_temperature
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import run

EPOCHS = 24
RECIPE = ["--city", "A", "--edition", "humob2024", "--config", "history", "--num_train_epochs", str(EPOCHS)]
RECIPE += ["--validation_users", "0", "--save_strategy", "no", "--bf16", "false", "--use_cpu", "true"]
EVERYBODY = ("--test_fraction", "0", "--min_history_days", "14")  # trained on whole
CUT_DAY, HELD_OUT = 17, 0.3
LICENCE = """The weights are licensed under Apache-2.0. They were trained on {users} people of city A of HuMob 2024,
who are people of YJMob100K data set 1 (CC BY 4.0): Yabe, Tsubouchi, Shimizu, Sekimoto, Sezaki, Moro and Pentland,
"YJMob100K: City-scale and longitudinal dataset of anonymized human mobility trajectories", Scientific Data 11, 2024,
https://doi.org/10.1038/s41597-024-03237-9. Nobody's records are in this folder. Do not try to find out who these
people are."""
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: other
tags: [human-mobility, trajectories, mixture-of-experts, stmoe-bert]
---

# The weights that come with stmoe_hf

{parameters:,} parameters. Given a person's past (days, slots, cells), they tell where the person will be, in any city,
on any grid of cells of 100 m to 2 km, in slots of 15 minutes to an hour: nothing in the weights belongs to a grid or a
calendar.

Trained by `python benchmarks/pretrained.py --data_dir CITY_A` on {users} people and {records:,} records of city A of
HuMob 2024, and on nothing else: seed {seed}, {epochs} epochs. Most of these people were seen for 32 days, some for 75.
Every figure of another city in the documentation is therefore one of a city that the weights never saw.

Temperature of the probabilities: {temperature}, fitted on days {first} to {last} of {held_out} people whom another run
of the same recipe held out.

## Limits

- People of one Japanese city in one autumn. How people elsewhere differ was measured for the cities in
  `docs/accuracy.md` only.
- They tell what people did before. Floods, festivals and moves of house are not in them.
- For research on mobility in aggregate: not to find out who a person is, nor to follow one.

## Licence and source

{licence}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder with the file of city A")
    parser.add_argument("--runs_dir", default="runs/pretrained", help="folder for the two runs")
    parser.add_argument("--output_dir", default="stmoe_hf/pretrained", help="folder to write")
    parser.add_argument("--seed", type=int, default=1, help="of both runs (default 1, the one that is shipped)")
    args = parser.parse_args()
    runs = Path(args.runs_dir)
    early = ("--cut_day", str(CUT_DAY), "--test_fraction", str(HELD_OUT), "--min_history_days", "7")
    held_out = train(runs / "held-out", args.data_dir, args.seed, *early)
    whole = train(runs / "whole", args.data_dir, args.seed, *EVERYBODY)
    nll = fit(held_out, args)
    for temperature, value in nll.items():
        print(f"temperature {temperature:.2f}: {value:.4f} nats a record")
    write(whole, held_out, Path(args.output_dir), nll)


def train(folder: Path, data_dir: str | Path, seed: int, *options: str) -> Path:
    """A finished run of the recipe on the file of city A in `data_dir`; one that is there is not trained again."""
    if not (folder / "all_results.json").is_file():
        common = [*RECIPE, "--data_dir", str(data_dir), "--seed", str(seed), "--output_dir", str(folder)]
        run(*parse_arguments([*common, *options]))
    return folder


def fit(folder: Path, args: argparse.Namespace) -> dict[float, float]:
    """Negative log-likelihood by temperature, on the people and days that a run held out."""
    city = stmoe_hf.open_city("A", args.data_dir, edition="humob2024")
    processor = stmoe_hf.MobilityProcessor.for_data(city.grid, city.calendar)
    rows = split_users(city, CUT_DAY, HELD_OUT, args.seed).held_out
    model = AutoModel.from_pretrained(folder)
    windows = PredictionWindows(
        city, rows, CUT_DAY, WindowShape(15), processor, city_field=getattr(model.config, "city_field", False)
    )
    return nll_by_temperature(model, windows)


def write(whole: Path, held_out: Path, output: Path, nll: dict[float, float]) -> None:
    """Weights, processor, record and card; paths and machines of the run stay out."""
    model, record = AutoModel.from_pretrained(whole), json.loads((whole / "run.json").read_text())
    model.config.temperature, model.config.trained_alone = best_temperature(nll), True
    people = len(json.loads((held_out / "run.json").read_text())["held_out_uids"])
    shutil.rmtree(output, ignore_errors=True)
    model.save_pretrained(output)
    AutoProcessor.from_pretrained(whole).save_pretrained(output)
    for code in output.glob("*.py"):  # the package has it
        code.unlink()
    kept = {name: record[name] for name in ("model", "data", "city", "trained_on", "versions")}
    for name in ("data_dir", "data_path", "cache_dir"):
        kept["data"].pop(name, None)
    names = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed", "decoder", "distance_weight")
    kept["training"] = {name: record["training"][name] for name in (*names, "num_candidates", "world_size")}
    kept["temperature"] = {"nll": nll, "held_out_people": people, "days": [CUT_DAY, CUT_DAY + 14]}
    (output / "run.json").write_text(json.dumps(kept, indent=2) + "\n")
    city = record["city"]
    text = CARD.format(
        parameters=model.num_parameters(),
        users=city["users"],
        records=city["records"],
        seed=record["training"]["seed"],
        epochs=EPOCHS,
        temperature=model.config.temperature,
        first=CUT_DAY,
        last=CUT_DAY + 14,
        held_out=people,
        licence=LICENCE.format(users=city["users"]),
    )
    (output / "README.md").write_text(text)
    print(f"the weights are in {output}")


if __name__ == "__main__":
    main()
