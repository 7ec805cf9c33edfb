"""From a run to a repository of the Hub: model, processor, code, pipeline, and a card written from the run itself."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id
from transformers import pipeline

from ..data.description import OWN
from ..data.files import give_usual_mode, new_folder
from ..evaluation.baselines import BASELINES
from ..metrics import EDITIONS
from ..model.pipeline_stmoe_bert import TASK
from ..prediction.load import PROCESSOR_FILE, load_saved
from ..report.evidence import of_run
from ..report.pictures import can_draw, draw_pictures
from ..report.unasked import UNASKED_PEOPLE
from ..training.arguments import DataArguments, ModelArguments, with_true_names
from .upload import upload

logger = logging.getLogger(__name__)
MEASURES = {"geobleu": ("GEO-BLEU", "higher is better"), "dtw": ("DTW (km)", "lower is better")}
RUN_FILES = ("run.json", "all_results.json")
# Arguments that the card repeats where they were given (not their paths: those are of one machine), and always.
DATA_ARGUMENTS = (
    *("pretrain_cities", "city_temperature", "cut_day", "horizon_days", "test_fraction", "max_users"),
    *("input_seq_length", "predict_seq_length", "look_back_len", "windows_per_user"),
    *("min_history_days", "min_horizon_days"),
)
RUN_ARGUMENTS = (
    *("learning_rate", "location_embedding_lr", "lr_scheduler_type", "num_train_epochs"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps", "weight_decay"),
    *("validation_users", "decoder", "distance_weight", "num_candidates", "seed"),
)


def export(run: str | Path, folder: str | Path, repo_id: str, *, datasets: Sequence[str] = ()) -> Path:
    """Write the folder that is uploaded: model, processor, their code, the pipeline, results and the card.

    It loads where only transformers is installed: `AutoModel.from_pretrained(folder, trust_remote_code=True)`.

    Args:
        run: folder of a run (`stmoe train --output_dir`).
        folder: to be written; refused if it holds anything.
        repo_id: the name under which the card shows the model.
        datasets: names on the Hub of the data that the run was trained on, for the card's metadata.

    Raises:
        FileNotFoundError: what the run lacks. FileExistsError: the folder is not empty. ValueError: a name is none.
    """
    run, folder = Path(run), Path(folder)
    for name in datasets:
        validate_repo_id(name)
    for name in ("config.json", *RUN_FILES):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run} is not the folder of a finished run: it has no {name}")
    with new_folder(folder) as aside:
        model, processor = load_saved(run)
        if processor is None:
            raise FileNotFoundError(f"{run} is not the folder of a finished run: it has no {PROCESSOR_FILE}")
        processor.save_pretrained(aside)
        pipeline(TASK, model=model, processor=processor).save_pretrained(aside)  # type: ignore[call-overload]
        results = json.loads((run / "all_results.json").read_text())
        record = json.loads((run / "run.json").read_text())
        (aside / "all_results.json").write_text(json.dumps(results, indent=2) + "\n")
        pictures = _pictures(run, aside)
        card(results, record, model, repo_id, datasets, pictures).save(aside / "README.md")
        for path in aside.iterdir():  # weights are written as their owner's only
            give_usual_mode(path)
    return folder


def push(
    run: str | Path, repo_id: str, *, private: bool = False, token: str | None = None, datasets: Sequence[str] = ()
) -> str:
    """Upload a run as one commit; other arguments as of `export`, errors and what is returned as of `upload`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = export(run, Path(temporary) / "model", repo_id, datasets=datasets)
        return upload(folder, repo_id, "Upload of a stmoe_hf run", private=private, token=token)


def _pictures(run: Path, folder: Path) -> dict[str, str]:
    """Name -> text of the pictures that were drawn; none without matplotlib, or where the data are no more there."""
    if not can_draw():
        return {}
    try:
        return draw_pictures(of_run(run, UNASKED_PEOPLE), folder)
    except (ValueError, OSError) as error:
        logger.info("the card has no pictures: %s", error)
        return {}


def card(
    results: dict[str, Any],
    record: dict[str, Any],
    model: Any,
    repo_id: str,
    datasets: Sequence[str] = (),
    pictures: dict[str, str] | None = None,
) -> ModelCard:
    """The model card of a run, from `all_results.json` and `run.json` (nothing that names a machine or a user).

    Args:
        datasets: names on the Hub of what it was trained on.
        pictures: file beside the card -> what is to be seen in it.
    """
    city, data = record["city"], record["data"]
    scored = "test_users" in results
    evaluation = [
        EvalResult(
            task_type=TASK,
            task_name="Prediction of trajectories",
            dataset_type="humob",
            dataset_name=f"{'' if city['edition'] == OWN else 'HuMob '}city {city['name']} ({city['edition']})",
            dataset_split=f"{results['test_users']} held-out users, from day {results['cut_day']} on",
            metric_type=measure,
            metric_name=f"{MEASURES[measure][0]}, edition {edition}",
            metric_value=results[f"test_{edition}_{measure}"],
        )
        for edition in (EDITIONS if scored else ())
        for measure in MEASURES
    ]
    metadata = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="other",
        tags=["human-mobility", "trajectories", "mixture-of-experts", "stmoe-bert"],
        base_model=_on_the_hub(record["model"].get("model_path")),
        datasets=list(datasets) or None,
        model_name=repo_id.rpartition("/")[2],
        eval_results=evaluation or None,
    )
    source = record["model"].get("model_path")
    others = [name for name in data.get("pretrain_cities") or [] if name != city["name"]]
    own = city["edition"] == OWN
    text = _TEXT.format(
        metadata=metadata.to_yaml(),
        name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        city=city["name"],
        edition="data of its own grid and days" if own else f"files in the format of HuMob edition {city['edition']}",
        minutes=f"{1440 / model.config.num_slots:g}",
        metres=f"{1000 * model.config.cell_km:g}",
        task=TASK,
        network=type(model).__name__,
        parameters=f"{model.num_parameters():,}",
        users=city["users"],
        records=f"{city['records']:,}",
        others=f" Trained together with cities {', '.join(others)}." if others else "",
        source=" Training went on from another model; what that one had seen is not told here." if source else "",
        command=_command(record, city["name"]),
        processes=record["training"].get("world_size", 1),
        cut_day=results["cut_day"],
        seed=results["seed"],
        decoder=results["decoder"],
        scores=_scores(results) if scored else "This run held no users out, so it has no scores.",
        pictures="".join(f"\n![{text}]({name})\n\n{text}\n" for name, text in (pictures or {}).items()),
        versions=", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    )
    return ModelCard(text)


def _on_the_hub(model: str | None) -> str | None:
    """The name of the model that training started from, if others can find it: folders are of one machine."""
    return model if model and model.count("/") == 1 and not Path(model).exists() and model[0] not in "./~" else None


def _command(record: dict[str, Any], city: str) -> str:
    """The training command, with every setting of DATA_ARGUMENTS and of the model that this run was given, and all
    of RUN_ARGUMENTS; folders are the reader's own."""
    parts = ["accelerate launch -m stmoe_hf.training", f"--city {city} --data_dir DIR"]
    model, data, training = (with_true_names(record[part]) for part in ("model", "data", "training"))
    if model.pop("model_path", None):
        parts.append("--model_path MODEL")
    usual = {field.name: field.default for kind in (ModelArguments, DataArguments) for field in fields(kind)}
    given = model | {name: data.get(name) for name in DATA_ARGUMENTS}
    values = {name: value for name, value in given.items() if value is not None and value != usual.get(name)}
    values |= {name: training[name] for name in RUN_ARGUMENTS if name in training}
    if training.get("max_steps", -1) > 0:
        values["max_steps"] = training["max_steps"]
    for name, value in values.items():
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        parts.append(f"--{name} {text.lower() if isinstance(value, bool) else text}")
    return " \\\n    ".join(parts)


def _scores(results: dict[str, Any]) -> str:
    columns = [(edition, measure) for edition in EDITIONS for measure in MEASURES]
    lines = [
        "| | " + " | ".join(f"{MEASURES[measure][0]}, {edition}" for edition, measure in columns) + " | accuracy |",
        "| --- |" + " --- |" * (len(columns) + 1),
    ]
    for name in ("test", *(name for name in BASELINES if f"{name}_accuracy" in results)):
        title = f"this model, decoder {results['decoder']}" if name == "test" else f"baseline {name}"
        numbers = [
            f"{results[f'{name}_{edition}_{measure}']:.{4 if measure == 'geobleu' else 2}f}"
            for edition, measure in columns
        ]
        lines.append(f"| {title} | " + " | ".join([*numbers, f"{results[f'{name}_accuracy']:.3f}"]) + " |")
    return "\n".join(lines)


_TEXT = """---
{metadata}
---

# {name}

Predicts where each person of city {city} will be in slots of {minutes} minutes on a grid of {metres} m cells, from the
days on which the person was seen before. {network} of `stmoe_hf`, {parameters} parameters.

## Use

```python
from transformers import pipeline

predict = pipeline("{task}", model="{repo_id}", trust_remote_code=True)
predict(records)   # a DataFrame uid, d, t, x, y; x and y are 999 where a cell is asked for
```

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)
```

## Data and split

City {city}, {edition}: {users} users, {records} records.
Of the held-out users, nothing from day {cut_day} on was seen in this training.{others}{source}
Seed {seed}. The records are not in this repository.

## Training

```
{command}
```

Processes: {processes}, each with this batch size.

## Scores

Editions of the metrics cannot be compared with each other. GEO-BLEU: higher is better; DTW: lower is better.

{scores}
{pictures}
The decoder `day` chooses a whole day at once and needs the package: the pipeline has the others.

```
stmoe predict --model {repo_id} --data_dir DIR --city {city} --decoder {decoder} --output P.csv.gz
stmoe score --prediction P.csv.gz --reference TRUTH.csv.gz --edition humob2024
```

## Limits, privacy and misuse

- The scores are of this split and these users; they say nothing about another city or another year.
- A cell id means a place of one city. What may carry over to another city is the rhythm of days and how people return
  to their own places, not the table of cells.
- It predicts what people did before. Floods, festivals and moves of house are not in it.
- The model is meant for research on mobility in aggregate. It must not be used to find out who a person is, or to
  follow one; the owners of the data ask for no attempt to re-identify anyone.
- A network can keep traces of what it was trained on. Before a model of private data is published, think about
  whether it should be.

## Licence

Code and weights: Apache-2.0. The data are their owners'.

## Citation

The system: Haoyu He, Haozheng Luo and Qi R. Wang, "ST-MoE-BERT: A Spatial-Temporal Mixture-of-Experts Framework for
Long-Term Cross-City Mobility Prediction", HuMob Challenge 2024, https://doi.org/10.1145/3681771.3699910,
arXiv:2410.14099. The data: Yabe, Tsubouchi, Shimizu, Sekimoto, Sezaki, Moro and Pentland, "YJMob100K: City-scale and
longitudinal dataset of anonymized human mobility trajectories", Scientific Data 11, 2024,
https://doi.org/10.1038/s41597-024-03237-9. The metric: Shimizu, Tsubouchi and Yabe, "GEO-BLEU", SIGSPATIAL 2022.

Made with {versions}.
"""
