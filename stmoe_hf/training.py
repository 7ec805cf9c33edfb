"""A training run: open the city, split it, train, predict what was held out, score it, write it all down.

Run it by `train_hf.py --city A --data_dir DIR`, or with `accelerate launch` before it.
"""

import importlib.metadata
import json
import logging
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel, PreTrainedModel, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .arguments import DataArguments, ModelArguments, RunArguments, parse_arguments
from .baselines import BASELINES, predict_person
from .data.city import City, open_city
from .data.errors import DataError
from .data.files import open_aside
from .data.windows import JointWindows, PredictionWindows, Split, TrainingWindows, draw, split_users
from .processing_stmoe_bert import MobilityProcessor
from .trainer import MobilityTrainer, predicted_records, scores_of, true_records

logger = logging.getLogger(__name__)
RESULTS, PREDICTIONS = "all_results.json", "predictions.csv.gz"
PACKAGES = ("stmoe-hf", "torch", "transformers", "datasets", "accelerate", "numpy")


def main(argv: list[str] | None = None) -> int:
    """The command: arguments in, exit status out; what goes wrong is said in one line."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        run(*parse_arguments(sys.argv[1:] if argv is None else argv))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(model_args: ModelArguments, data_args: DataArguments, args: RunArguments) -> dict[str, Any]:
    """Train, predict and score; everything a repetition needs is written to `args.output_dir`.

    Returns:
        The results, as in `all_results.json`.

    Raises:
        ValueError, OSError: with what is wrong, where, and what to do.
    """
    folder = Path(args.output_dir or "")
    checkpoint = _checkpoint_to_resume(folder, args)
    config = _refuse_impossible(model_args)
    set_seed(args.seed)

    with args.main_process_first(desc="preparing the city"):
        city = open_city(
            data_args.city,
            data_args.data_dir,
            path=data_args.data_path,
            edition=data_args.edition,
            cache_dir=data_args.cache_dir,
            progress=not args.disable_tqdm,
        )
        others = _other_cities(city, data_args)
    if data_args.max_users is not None:
        city = city.select(np.arange(min(data_args.max_users, len(city))))
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    if config is not None:
        processor.refuse_other_model(config)
    cut_day = city.edition.cut_day if data_args.cut_day is None else data_args.cut_day
    split = split_users(city, cut_day, data_args.eval_fraction, args.seed)
    shape = data_args.window_shape()

    test = PredictionWindows(city, split.held_out, cut_day, shape, processor)
    asked = PredictionWindows(city, split.masked, cut_day, shape, processor, masked=True)
    validation, split = _validation(city, split, args, shape, processor)
    parts = [TrainingWindows(city, split, shape, processor, args.seed, data_args.windows_per_user)]
    for other in others:
        whole = split_users(other, other.edition.cut_day, 0.0, args.seed)
        parts.append(TrainingWindows(other, whole, shape, processor, args.seed, data_args.windows_per_user))
    train = JointWindows(parts, data_args.city_temperature) if others else parts[0]
    _say_split(city, split, train, validation, test, asked)

    model = _model(model_args, city, args)
    if getattr(model.config, "sparse_layers", None):
        logger.info("implementation of the experts: %s", model.config._experts_implementation)
    trainer = MobilityTrainer(
        model=model,
        args=args,
        settings=args.prediction_settings(data_args),
        train_dataset=train,
        eval_dataset=validation,
        processor=processor,
    )
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "run.json", _record_of_run(model_args, data_args, args, city, split))
    results: dict[str, Any] = {}
    if args.num_train_epochs > 0 and args.max_steps != 0:
        results |= trainer.train(resume_from_checkpoint=checkpoint).metrics
    trainer.save_model()
    trainer.save_state()

    results |= {"city": city.name, "edition": city.edition.name, "cut_day": cut_day, "seed": args.seed}
    results |= {"parameters": model.num_parameters(), "decoder": args.decoder}
    predicted = []
    if len(test):
        outcome = trainer.predict(test, metric_key_prefix="test")  # type: ignore[arg-type]
        results |= outcome.metrics or {}
        predicted.append(predicted_records(test, outcome.predictions[0]))
        if trainer.is_world_process_zero():
            results |= _baseline_scores(city, test)
    if len(asked):
        outcome = trainer.predict(asked, metric_key_prefix="masked")  # type: ignore[arg-type]
        predicted.append(predicted_records(asked, outcome.predictions[0]))
    if trainer.is_world_process_zero():
        if predicted:
            with open_aside(folder / PREDICTIONS) as file:
                pd.concat(predicted).sort_values(["uid", "d", "t"]).to_csv(file, index=False)
        _write_json(folder / RESULTS, results)
        if len(test):
            print(table(results))
        print(f"\nThe model, its predictions and all results are in {folder}")
    return results


def _other_cities(city: City, data_args: DataArguments) -> list[City]:
    """The cities to train on beside the one that is predicted; they must have its grid and calendar."""
    others = []
    for name in data_args.pretrain_cities or []:
        if name == data_args.city:
            continue
        other = open_city(name, data_args.data_dir, edition=data_args.edition, cache_dir=data_args.cache_dir)
        if (other.grid, other.calendar) != (city.grid, city.calendar):
            raise ValueError(f"city {name} has another grid or calendar than city {city.name}: train on one edition")
        others.append(other)
    return others


def _checkpoint_to_resume(folder: Path, args: RunArguments) -> str | None:
    """The last whole checkpoint if a run is to go on; refuses to run over an earlier one unasked."""
    checkpoints = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    if args.resume:
        checkpoints.sort(key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
        for path in checkpoints:
            try:
                # It is written last, so a checkpoint that has it is whole.
                json.loads((path / "trainer_state.json").read_text())
            except (OSError, ValueError):
                logger.warning("%s was cut off while it was written; an earlier checkpoint is taken", path)
                continue
            logger.info("going on from %s", path)
            return str(path)
        logger.warning("%s has no checkpoint to go on from; training starts anew", folder)
    elif (checkpoints or (folder / RESULTS).exists()) and not args.overwrite:
        raise ValueError(
            f"{folder} holds an earlier run: give --resume to go on with it, --overwrite to replace it, or another"
            " --output_dir"
        )
    return None


def _refuse_impossible(model_args: ModelArguments) -> Any:
    """The configuration of the model to go on from, if any; raises before data is read if one cannot work."""
    if model_args.model_path is None:
        model_args.config()
        return None
    if not Path(model_args.model_path).exists() and model_args.model_path.count("/") != 1:
        raise ValueError(f"there is no model at {model_args.model_path}")
    config = AutoConfig.from_pretrained(model_args.model_path)
    model_args.refuse_other_sizes(config)
    return config


def _model(model_args: ModelArguments, city: City, args: RunArguments) -> PreTrainedModel:
    set_seed(args.seed)
    if model_args.model_path is None:
        return model_args.new_model(
            grid_width=city.grid.width,
            grid_height=city.grid.height,
            cell_km=city.grid.cell_km,
            num_days=city.calendar.num_days,
            num_slots=city.calendar.num_slots,
        )
    config = AutoConfig.from_pretrained(model_args.model_path)
    model_args.refuse_other_sizes(config)
    return AutoModel.from_pretrained(model_args.model_path, config=config, **model_args.implementations())


def _validation(
    city: City, split: Split, args: RunArguments, shape: Any, processor: MobilityProcessor
) -> tuple[PredictionWindows | None, Split]:
    """Some users' last days before the cut, kept from training, to choose a checkpoint without the held-out days."""
    count = min(args.eval_users, len(city) // 5)
    cut = split.cut_day - shape.horizon_days
    if args.eval_strategy == "no" or count < 1 or cut <= city.calendar.first_day:
        if args.eval_strategy != "no":
            logger.warning("the city is too small to evaluate during training; the last checkpoint is kept")
            args.eval_strategy, args.load_best_model_at_end, args.metric_for_best_model = "no", False, None
        return None, split
    order = np.argsort(draw(args.seed, 1, city.uids), kind="stable")
    rows = np.sort(order[:count])
    windows = PredictionWindows(city, rows, cut, shape, processor)
    train_until = split.train_until.copy()
    train_until[rows] = cut
    if not len(windows):
        raise DataError(f"none of the {count} users for evaluation has records on the days {cut}..{split.cut_day - 1}")
    return windows, replace(split, train_until=train_until)


def _say_split(city: City, split: Split, train, validation, test, asked) -> None:
    logger.info(
        "city %s (%s): %d users, %d records; %d training windows an epoch; %d users evaluated during training;"
        " %d users held out from day %d on; %d users with masked records to predict",
        city.name,
        city.edition.name,
        len(city),
        city.num_records,
        len(train),
        0 if validation is None else len(validation),
        len(test),
        split.cut_day,
        len(asked),
    )
    skipped = len(test.without_horizon) + len(asked.without_horizon)
    if skipped:
        logger.warning("%d of the users to predict have no record in the horizon and are left out", skipped)


def _record_of_run(model_args, data_args, args, city: City, split: Split) -> dict[str, Any]:
    """What a repetition of the run needs to know."""
    return {
        "command": sys.argv,
        "model": vars(model_args),
        "data": vars(data_args),
        "training": args.to_dict(),
        "city": {"name": city.name, "edition": city.edition.name, "users": len(city), "records": city.num_records},
        "source": [str(path) for path in city.source],
        "held_out_uids": city.uids[split.held_out].tolist(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "gpus": torch.cuda.device_count()},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _baseline_scores(city: City, windows: PredictionWindows) -> dict[str, float]:
    """Scores of every frequency baseline on the same users and records."""
    width = max(len(windows.asked_for(window)["uid"]) for window in range(len(windows)))
    cells = {name: np.full((len(windows), width), -100) for name in BASELINES}
    for window in tqdm(range(len(windows)), desc="baselines", unit="users", leave=False):
        for name, chosen in predict_person(city, windows, window).items():
            cells[name][window, : len(chosen)] = chosen
    true = true_records(windows)
    results: dict[str, float] = {}
    for name, chosen in cells.items():
        scores = scores_of(predicted_records(windows, chosen), true, windows)
        results |= {f"{name}_{key}": value for key, value in scores.items() if key != "users"}
    return results


def table(results: dict[str, Any]) -> str:
    """The scores of a run and of the baselines, for a person."""
    lines = [
        f"City {results['city']}, {results['edition']}, days from {results['cut_day']} on, {results['test_users']}"
        f" held-out users, seed {results['seed']}",
        f"{'':26}{'edition humob2024':>21}{'edition humob2025':>21}",
        f"{'':26}{'GEO-BLEU':>10}{'DTW km':>11}{'GEO-BLEU':>10}{'DTW km':>11}{'accuracy':>10}",
    ]
    for name in ("test", *BASELINES):
        row = [results[f"{name}_{key}"] for key in ("humob2024_geobleu", "humob2024_dtw")]
        row += [results[f"{name}_{key}"] for key in ("humob2025_geobleu", "humob2025_dtw", "accuracy")]
        title = f"this model, {results['decoder']}" if name == "test" else name
        lines.append(f"{title:26}{row[0]:10.4f}{row[1]:11.2f}{row[2]:10.4f}{row[3]:11.2f}{row[4]:10.3f}")
    return "\n".join(lines)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with open_aside(path) as file:
        file.write(json.dumps(value, indent=2, default=str) + "\n")
