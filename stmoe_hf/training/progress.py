"""What a person sees of a training: one live line, and a row for each evaluation beside the best baseline.

Where nobody looks at a terminal, a plain line now and then stands in place of the live one. TensorBoard, W&B and
`trainer_state.json` get every number that is logged; `--verbose` shows them here too, as transformers does.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.utils import logging as transformers_logging

from ..data.windows import PredictionWindows
from ..evaluation.evaluate import baseline_means, baseline_scores
from ..evaluation.verdict import best_baseline

SECONDS = 30  # between plain lines
MEASURES = {"humob2024_geobleu": ("GEO-BLEU", 4), "humob2024_dtw": ("DTW km", 2), "accuracy": ("accuracy", 3)}


class TrainingProgress(TrainerCallback):
    """Shows a training on the standard error.

    Args:
        validation: what is evaluated during training; None: nothing is.
        live: show a line that changes, if the standard error is a terminal.
    """

    def __init__(self, validation: PredictionWindows | None, live: bool = True, console: Console | None = None):
        # A notebook tells its commands to print in colours, and they are in no terminal all the same.
        is_terminal = sys.stderr.isatty()
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=is_terminal)
        self.live = live and self.console.is_terminal
        self.validation = validation
        self._bar: Progress | None = None
        self._logs: dict[str, float] = {}
        self._experts = 0
        self._table_begun = False
        self._start = self._said = 0.0
        self._first_step = self._predicted = 0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if not state.is_world_process_zero:
            return
        self._experts = getattr(getattr(model, "config", None), "num_experts", 0)
        self._start = self._said = time.monotonic()
        self._first_step = state.global_step
        self._open("training", state.max_steps, state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self._log_before_evaluating(control)
        if not state.is_world_process_zero:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step, numbers=self._numbers())
        elif time.monotonic() - self._said > SECONDS:
            self._say_plainly(state)

    def on_epoch_end(self, args, state, control, **kwargs):
        self._log_before_evaluating(control)

    @staticmethod
    def _log_before_evaluating(control) -> None:
        """In every process, so that the row of an evaluation has a loss, however rarely steps are logged."""
        control.should_log |= control.should_evaluate

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._logs |= {name: logs[name] for name in ("loss", "experts_in_use") if name in (logs or {})}

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self._predicted = 0
        if state.is_world_process_zero and metrics and self.validation is not None:
            if not self._table_begun:
                self._begin_table(self.validation)
            values = {name: metrics.get(f"eval_{name}") for name in (*MEASURES, "nll")}
            self._row(f"{state.epoch or 0:g}", values, self._logs.get("loss"), f"{self._in_use()}")

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if not state.is_world_process_zero or not self.live:
            return
        batches = len(eval_dataloader) if eval_dataloader is not None else 0
        self._predicted += 1
        if self._bar is None:
            self._open("predicting", batches, 0)
        if self._bar is not None and control.should_evaluate:
            self._bar.update(self._task, numbers=f"evaluating, {self._predicted} of {batches} batches")
        elif self._bar is not None:
            self._bar.update(self._task, completed=self._predicted)

    def on_predict(self, args, state, control, metrics=None, **kwargs):
        self._predicted = 0
        self.close()

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self._bar is None and state.global_step > self._first_step:
            self._say_plainly(state)
        self.close()

    def close(self) -> None:
        """Take the live line away, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            _log_to(sys.stderr)

    def _open(self, what: str, total: int, done: int) -> None:
        if not self.live:
            return
        columns = (
            TextColumn("{task.description} {task.completed} of {task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._task = self._bar.add_task(what, total=total, completed=done, numbers="")
        self._bar.start()
        _log_to(sys.stderr)  # which now stands above the live line

    def _in_use(self) -> str:
        in_use = self._logs.get("experts_in_use")
        return "" if in_use is None else f"{in_use:.1f} of {self._experts}"

    def _numbers(self) -> str:
        loss, in_use = self._logs.get("loss"), self._in_use()
        parts = ["" if loss is None else f"loss {loss:.3f}", f"experts {in_use}" if in_use else ""]
        return ", ".join(part for part in parts if part)

    def _say_plainly(self, state: Any) -> None:
        self._said = time.monotonic()
        done, total = state.global_step, state.max_steps
        left = (self._said - self._start) / max(done - self._first_step, 1) * (total - done)
        numbers = f": {self._numbers()}" if self._numbers() else ""
        self._print(f"step {done} of {total}{numbers}, {_duration(left)} left")

    def _begin_table(self, validation: PredictionWindows) -> None:
        self._table_begun = True
        first = int(validation.cut_days[validation.rows[0]])
        last = first + validation.shape.horizon_days - 1
        self._print(f"{len(validation)} users on the days {first}..{last}, edition humob2024:")
        titles = "".join(f"{title:>10}" for title, _ in MEASURES.values())
        self._print(f"{'epoch':>10}{titles}{'nll':>8}{'loss':>8}  experts in use")
        counted = baseline_means(baseline_scores(validation, progress=False))
        name = best_baseline(counted, "humob2024", "geobleu")
        self._row("counting", {measure: counted[f"{name}_{measure}"] for measure in MEASURES}, None, f"({name})")

    def _row(self, title: str, values: dict[str, float | None], loss: float | None, more: str) -> None:
        cells = [(values.get(name), digits, 10) for name, (_, digits) in MEASURES.items()]
        cells += [(values.get("nll"), 3, 8), (loss, 3, 8)]
        text = "".join(
            " " * width if value is None else f"{value:{width}.{digits}f}" for value, digits, width in cells
        )
        self._print(f"{title:>10}{text}  {more}".rstrip())

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)


@contextlib.contextmanager
def shown(trainer: Trainer, validation: PredictionWindows | None) -> Iterator[None]:
    """Show the training of a trainer as `TrainingProgress` does, in place of transformers' dictionaries and bars."""
    for usual in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(usual)
    progress = TrainingProgress(validation, live=not trainer.args.disable_tqdm)
    trainer.add_callback(progress)
    were = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        progress.close()
        if were[0]:
            transformers_logging.enable_progress_bar()
        if were[1]:
            enable_progress_bars()


def _log_to(stream: Any) -> None:
    """Let what is logged go through a stream that knows of the live line."""
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(stream)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
