"""A training run: open the city, split it, train, predict what was held out, score it, write it all down.

Run it by `train_hf.py --city A --data_dir DIR`, or with `accelerate launch` before it.
"""

import importlib.metadata
import json
import logging
import os
import platform
import shutil
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

from .arguments import DataArguments, ModelArguments, RunArguments, parse_arguments, refuse_missing_model
from .baselines import BASELINES, predict_person
from .data.city import City, open_city
from .data.files import open_aside
from .data.windows import (
    JointWindows,
    PredictionWindows,
    Split,
    TrainingWindows,
    WindowShape,
    draw,
    refuse_cut_day,
    split_users,
)
from .processing_stmoe_bert import MobilityProcessor
from .spacetime import Calendar, Grid
from .trainer import MobilityTrainer, predicted_records, scores_of, true_records
from .transfer import CELL_TABLE, begin_cell_table_anew, city_id, city_key, freeze

logger = logging.getLogger(__name__)
RESULTS, PREDICTIONS, RUN = "all_results.json", "predictions.csv.gz", "run.json"
PACKAGES = ("stmoe-hf", "torch", "transformers", "datasets", "accelerate", "numpy")


def main(argv: list[str] | None = None) -> int:
    """The command: arguments in, exit status out; what goes wrong is said in one line."""
    # Of several processes the first one speaks; of the others only what went wrong in them is heard.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level)
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
    if checkpoint is not None:
        _refuse_other_arguments(folder, model_args, data_args, args)
    config = _refuse_impossible(model_args, data_args, args)
    set_seed(args.seed)

    def check(grid: Grid, calendar: Calendar) -> None:
        if model_args.model_path is not None:
            MobilityProcessor.for_data(grid, calendar).refuse_other_model(config)
        if data_args.cut_day is not None:
            refuse_cut_day(data_args.cut_day, calendar)

    with args.main_process_first(desc="preparing the city"):
        city = open_city(
            data_args.city,
            data_args.data_dir,
            path=data_args.data_path,
            edition=data_args.edition,
            cache_dir=data_args.cache_dir,
            progress=not args.disable_tqdm,
            check=check,
        )
        others = _other_cities(city, data_args)
    if data_args.max_users is not None:
        city, *others = [part.select(np.arange(min(data_args.max_users, len(part)))) for part in (city, *others)]
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    cut_day = city.edition.cut_day if data_args.cut_day is None else data_args.cut_day
    split = split_users(city, cut_day, data_args.eval_fraction, args.seed)
    shape = data_args.window_shape()
    _refuse_long_trajectories([city, *others], shape, config.max_seq_length)
    trains = args.num_train_epochs > 0 and args.max_steps != 0
    cities = _cities_with_a_vector(model_args, config, [city, *others] if trains else [])
    own_id = city_id(cities, city)

    test = PredictionWindows(city, split.held_out, cut_day, shape, processor, city_id=own_id)
    asked = PredictionWindows(city, split.masked, cut_day, shape, processor, masked=True, city_id=own_id)
    validation, split = _validation(city, split, args, shape, processor, own_id)
    per_user = data_args.windows_per_user
    parts = [TrainingWindows(city, split, shape, processor, args.seed, per_user, own_id)]
    for other in others:
        whole = split_users(other, other.edition.cut_day, 0.0, args.seed)
        parts.append(TrainingWindows(other, whole, shape, processor, args.seed, per_user, city_id(cities, other)))
    train = JointWindows(parts, data_args.city_temperature) if others else parts[0]
    _say_split(city, split, train, validation, test, asked)

    model = _model(model_args, city, args, cities)
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
        if args.overwrite and not args.resume:
            _remove_earlier_run(folder, keep_weights=model_args.model_path)
        _write_json(folder / RUN, _record_of_run(model_args, data_args, args, city, split))
    results: dict[str, Any] = {}
    if trains:
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
    if len(asked):
        outcome = trainer.predict(asked, metric_key_prefix="masked")  # type: ignore[arg-type]
        predicted.append(predicted_records(asked, outcome.predictions[0]))
    # From here on no process waits for another.
    if trainer.is_world_process_zero():
        if len(test):
            results |= _baseline_scores(city, test, progress=not args.disable_tqdm)
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
        if {Path(file).resolve() for file in other.source} & {Path(file).resolve() for file in city.source}:
            raise ValueError(
                f"city {name} of --pretrain_cities is the city that is predicted: its held-out days would be trained"
                " on. Leave it out"
            )
        if (other.grid, other.calendar) != (city.grid, city.calendar):
            raise ValueError(f"city {name} has another grid or calendar than city {city.name}: train on one edition")
        others.append(other)
    return others


def _checkpoint_to_resume(folder: Path, args: RunArguments) -> str | None:
    """The last whole checkpoint if a run is to go on; refuses to run over an earlier one unasked."""
    checkpoints = _checkpoints(folder)
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


def _refuse_other_arguments(
    folder: Path, model_args: ModelArguments, data_args: DataArguments, args: RunArguments
) -> None:
    """Raise ValueError if a run would go on with another model, other data or another split than it began with."""
    try:
        record = json.loads((folder / RUN).read_text())
    except FileNotFoundError:
        return
    of_the_split = ("seed", "eval_users")
    now = vars(model_args) | vars(data_args) | {name: getattr(args, name) for name in of_the_split}
    before = record["model"] | record["data"] | {name: record["training"][name] for name in of_the_split}
    moved = ("data_dir", "data_path", "cache_dir")  # the files may lie elsewhere now
    differ = [
        f"{name} was {before[name]} and is {value}"
        for name, value in now.items()
        if name not in moved and name in before and before[name] != value
    ]
    if differ:
        raise ValueError(f"the run in {folder} cannot be resumed with other arguments: {'; '.join(differ)}")


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]


def _remove_earlier_run(folder: Path, keep_weights: str | None) -> None:
    """Remove what a run killed from here on, or its --resume, would be taken to have made.

    Args:
        folder: of the run.
        keep_weights: the model that training starts from; it stays if it is the one of this folder.
    """
    for path in _checkpoints(folder):
        shutil.rmtree(path)
    old = [folder / RESULTS, folder / PREDICTIONS]
    if keep_weights is None or Path(keep_weights).resolve() != folder.resolve():
        old += folder.glob("model*.safetensors*")
    for path in old:
        path.unlink(missing_ok=True)


def _refuse_impossible(model_args: ModelArguments, data_args: DataArguments, args: RunArguments) -> Any:
    """The configuration of the model, saved or new; raises before data is read if something cannot work."""
    if model_args.model_path is None:
        config = model_args.config()
    else:
        refuse_missing_model(model_args.model_path)
        config = AutoConfig.from_pretrained(model_args.model_path)
        model_args.refuse_other_sizes(config)
    if args.decoder == "day" and not getattr(config, "history_head", False):
        raise ValueError("the decoder `day` needs a network with a history head; choose another --decoder")
    shape = data_args.window_shape()
    if shape.input_seq_length and shape.predict_seq_length:
        length = shape.input_seq_length + shape.predict_seq_length
        if length > config.max_seq_length:
            raise ValueError(
                f"windows of {shape.input_seq_length} + {shape.predict_seq_length} records are longer than"
                f" max_seq_length {config.max_seq_length}"
            )
    return config


def _refuse_long_trajectories(cities: list[City], shape: WindowShape, most: int) -> None:
    """Raise ValueError if somebody has more records than the network takes, where windows are as long as people."""
    if shape.input_seq_length:
        return
    for city in cities:
        row = int(city.lengths.argmax())
        if city.lengths[row] > most:
            raise ValueError(
                f"uid {city.uids[row]} of city {city.name} has {city.lengths[row]} records; the network takes {most}."
                " Raise --max_seq_length, or shorten the history with --input_seq_length"
            )


def _cities_with_a_vector(model_args: ModelArguments, config: Any, trained_on: list[City]) -> list[str]:
    """The cities of the model's city embedding: those it knows already, then those that it is trained on now."""
    known = list(getattr(config, "cities", None) or [])
    if not known and not model_args.city_embedding:
        return []
    return list(dict.fromkeys([*known, *map(city_key, trained_on)]))


def _model(model_args: ModelArguments, city: City, args: RunArguments, cities: list[str]) -> PreTrainedModel:
    """The model that training starts from: a new one or a saved one, its parts kept, frozen or begun anew."""
    model = _new_or_saved(model_args, city, args)
    if model_args.cell_table == "reinit" and not begin_cell_table_anew(model, args.seed):
        logger.info("the model has no table of cells: nothing was drawn anew")
    if cities:
        if not hasattr(model, "add_cities"):
            raise ValueError(f"{type(model).__name__} has no city embedding; that belongs to STMoEBert")
        model.add_cities(cities)  # type: ignore[operator]
    freeze(model, [*(model_args.freeze or []), *([CELL_TABLE] if model_args.cell_table == "freeze" else [])])
    return model


def _new_or_saved(model_args: ModelArguments, city: City, args: RunArguments) -> PreTrainedModel:
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
    city: City,
    split: Split,
    args: RunArguments,
    shape: Any,
    processor: MobilityProcessor,
    own_id: int | None,
) -> tuple[PredictionWindows | None, Split]:
    """Some users' last days before the cut, kept from training, to choose a checkpoint without the held-out days."""
    if args.eval_strategy == "no":
        return None, split
    count = min(args.eval_users, len(city) // 5)
    cut = split.cut_day - shape.horizon_days
    order = np.argsort(draw(args.seed, 1, city.uids), kind="stable")
    if split.cut_day > city.edition.cut_day:  # masked records, which have no truth, would be among those evaluated
        order = order[city.masked_counts[order] == 0]
    rows = np.sort(order[:count])
    if cut > city.calendar.first_day:
        windows = PredictionWindows(city, rows, cut, shape, processor, city_id=own_id)
        if len(windows):
            train_until = split.train_until.copy()
            train_until[rows] = cut
            return windows, replace(split, train_until=train_until)
    logger.warning(
        "the city is too small to evaluate during training (a fifth of its users, on the days %d..%d); the last"
        " checkpoint is kept",
        cut,
        split.cut_day - 1,
    )
    args.eval_strategy, args.load_best_model_at_end, args.metric_for_best_model = "no", False, None
    return None, split


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
    if not len(test) + len(asked):
        logger.warning("nobody is held out or masked: the model is trained and saved, and nothing is predicted")
    for windows in (test, asked):
        windows.warn_of_the_unknown()


def _record_of_run(model_args, data_args, args, city: City, split: Split) -> dict[str, Any]:
    """What a repetition of the run needs to know."""
    return {
        "command": _without_tokens(sys.argv),
        "model": vars(model_args),
        "data": vars(data_args),
        "training": args.to_dict() | {"world_size": args.world_size},
        "city": {"name": city.name, "edition": city.edition.name, "users": len(city), "records": city.num_records},
        "source": [str(path) for path in city.source],
        "held_out_uids": city.uids[split.held_out].tolist(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "gpus": torch.cuda.device_count()},
    }


def _without_tokens(command: list[str]) -> list[str]:
    """A command line without the values of options like --hub_token."""
    words, secret = [], False
    for word in command:
        option, equals, _ = word.partition("=")
        is_secret = option.startswith("--") and "token" in option
        words.append("..." if secret else f"{option}=..." if is_secret and equals else word)
        secret = is_secret and not equals
    return words


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _baseline_scores(city: City, windows: PredictionWindows, progress: bool) -> dict[str, float]:
    """Scores of every frequency baseline on the same users and records."""
    width = max(len(windows.asked_for(window)["uid"]) for window in range(len(windows)))
    cells = {name: np.full((len(windows), width), -100) for name in BASELINES}
    for window in tqdm(range(len(windows)), desc="baselines", unit="users", leave=False, disable=not progress):
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
