"""A training run: open the city, split it, train, predict what was held out, score it, write it all down.

`stmoe train --city A --data_dir DIR`, or `accelerate launch train_hf.py` with the same arguments.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any

import pandas as pd
from transformers import set_seed

from ..evaluation.evaluate import predicted_records
from ..report.unasked import REPORT, report_of_run
from .arguments import DataArguments, ModelArguments, RunArguments
from .build import build_model, find_config
from .command_line import DEFAULT_CONFIG, parse_arguments
from .progress import shown
from .refusals import refuse_what_is_missing
from .run_data import RunData, open_run_data
from .run_folder import RunFolder
from .run_results import about, resumed_results, say_what_is_there, score_beside_counting
from .trainer import MobilityTrainer

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it


def main(argv: list[str] | None = None) -> int:
    """The command: arguments in, exit status out; what goes wrong is said in one line."""
    # Of several processes the first one speaks; of the others only what went wrong in them is heard.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        run(*parse_arguments(sys.argv[1:] if argv is None else argv, default_config=DEFAULT_CONFIG))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # other libraries' errors have lines
        return 1
    except KeyboardInterrupt:
        print("stopped; if a checkpoint was written, --resume goes on from it", file=sys.stderr)
        return INTERRUPTED
    return 0


def run(model_args: ModelArguments, data_args: DataArguments, args: RunArguments) -> dict[str, Any]:
    """Train, predict and score; everything a repetition needs is written to `args.output_dir`.

    Returns:
        The results, as in `all_results.json`.

    Raises:
        ValueError, OSError: with what is wrong, where, and what to do.
    """
    refuse_what_is_missing(args)
    folder = RunFolder(args.output_dir or "")
    with folder.alone(args.process_index == 0):
        checkpoint = folder.checkpoint_to_resume(args)
        if checkpoint is not None:
            folder.refuse_other_arguments(model_args, data_args, args)
        config = find_config(model_args, data_args, args)
        set_seed(args.seed)
        data = open_run_data(model_args, data_args, args, config)
        if data.validation is None:
            args.keep_last_checkpoint()
        model = build_model(model_args, data_args, args, data)
        trainer = _trainer(model, data_args, args, data)
        if trainer.is_world_process_zero():
            folder.begin(model_args, data_args, args, data, checkpoint)
        results = about(data, args) | {"parameters": model.num_parameters()}
        with contextlib.nullcontext() if args.verbose else shown(trainer, data.validation):
            _train(trainer, args, checkpoint, results)
            predicted = _predict(trainer, data, results)
        # From here on no process waits for another.
        if trainer.is_world_process_zero():
            text = score_beside_counting(data, predicted, results)
            folder.finish(results, predicted)
            print(text + say_what_is_there(folder, data))
            if args.report and predicted:
                print(report_of_run(folder.path, folder.path / REPORT))
    return results


def _trainer(model: Any, data_args: DataArguments, args: RunArguments, data: RunData) -> MobilityTrainer:
    return MobilityTrainer(
        model=model,
        args=args,
        settings=args.prediction_settings(data_args),
        train_dataset=data.train,
        eval_dataset=data.validation,
        processor=data.processor,
    )


def _train(trainer: MobilityTrainer, args: RunArguments, checkpoint: str | None, results: dict[str, Any]) -> None:
    """Train, unless the model is taken as it is, and save it; what the training measured goes into `results`."""
    if args.trains:
        trained = trainer.train(resume_from_checkpoint=checkpoint).metrics
        results |= resumed_results(trained) if checkpoint else trained
    trainer.save_model()
    trainer.save_state()


def _predict(trainer: MobilityTrainer, data: RunData, results: dict[str, Any]) -> list[pd.DataFrame]:
    """Predicted records of the held-out and of the masked users; the former's scores go into `results`."""
    predicted = []
    for windows, prefix in ((data.test, "test"), (data.masked, "masked")):
        if len(windows):
            outcome = trainer.predict(windows, metric_key_prefix=prefix)  # type: ignore[arg-type]
            predicted.append(predicted_records(windows, outcome.predictions[0]))
            results |= outcome.metrics or {}
    return predicted
