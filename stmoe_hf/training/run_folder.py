"""The folder of a run: what lies in it under which name, whether a run may begin or go on there, and one at a time."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from ..data.files import open_aside
from ..model.records import KEY_COLUMNS
from ..report.unasked import REPORT
from .arguments import DataArguments, ModelArguments, RunArguments
from .checkpoints import checkpoints, what_is_wrong
from .run_data import RunData
from .run_record import other_arguments, record_of_run, resumption

logger = logging.getLogger(__name__)
RESULTS, PREDICTIONS, RECORD, LOCK = "all_results.json", "predictions.csv.gz", "run.json", ".lock"


class RunFolder:
    """The folder `path` of a run, which may hold an earlier one."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = FileLock(self.path / LOCK, blocking=False)

    @contextlib.contextmanager
    def alone(self, is_first: bool = True) -> Iterator[None]:
        """Keep other runs out of this folder meanwhile; of several processes of a run the first one does."""
        self.refuse_unwritable()
        if is_first and self.path.is_dir():
            self._take()
        try:
            yield
        finally:
            self._lock.release()

    def _take(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(
                f"another run is writing to {self.path}: wait until it has ended, or give another --output_dir"
            ) from None

    def refuse_unwritable(self) -> None:
        """Raise ValueError if this folder cannot be made, or nothing can be written in it."""
        there = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not there.is_dir():
            raise ValueError(f"--output_dir {self.path}: {there} is a file; give another --output_dir")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"--output_dir {self.path}: {there} cannot be written to; give another --output_dir")

    def checkpoint_to_resume(self, args: RunArguments) -> str | None:
        """The last whole checkpoint if a run is to go on; refuses to run over an earlier one unasked."""
        if not args.resume:
            self._refuse_earlier_run(args)
            return None
        damaged = []
        for path in checkpoints(self.path):
            wrong = what_is_wrong(path)
            if wrong is None:
                logger.info("going on from %s", path)
                return str(path)
            damaged.append(f"{path}: {wrong}")
            logger.warning("%s: %s; an earlier checkpoint is looked for", path, wrong)
        if damaged:
            raise ValueError(
                f"no checkpoint of {self.path} is whole ({'; '.join(damaged)}): give --overwrite in place of --resume"
                " to start anew"
            )
        logger.warning("%s has no checkpoint to go on from; training starts anew", self.path)
        return None

    def _refuse_earlier_run(self, args: RunArguments) -> None:
        if (checkpoints(self.path) or (self.path / RESULTS).exists()) and not args.overwrite:
            raise ValueError(
                f"{self.path} holds an earlier run: give --resume to go on with it, --overwrite to replace it, or"
                " another --output_dir"
            )

    def refuse_other_arguments(self, model_args: ModelArguments, data_args: DataArguments, args: RunArguments) -> None:
        """Raise ValueError if a run would go on with other arguments than it began with, or they are not known."""
        record = self._record()
        if record is None:
            logger.warning("%s has no %s: whether the run goes on as it began cannot be checked", self.path, RECORD)
        elif differ := other_arguments(record, model_args, data_args, args):
            raise ValueError(
                f"the run in {self.path} cannot be resumed with other arguments: {'; '.join(differ)}. Give those that"
                " it began with, or start anew in another --output_dir"
            )

    def _record(self) -> dict[str, Any] | None:
        try:
            record = json.loads((self.path / RECORD).read_text())
            return {key: dict(record[key]) for key in ("model", "data", "training")} | record
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            raise ValueError(
                f"{self.path / RECORD}, the record of the run, is damaged: remove it to go on unchecked, or give"
                " --overwrite in place of --resume to start anew"
            ) from None

    def begin(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        args: RunArguments,
        data: RunData,
        checkpoint: str | None,
    ) -> None:
        """Make the folder, remove what an earlier run left if it is to be replaced, and write the record.

        The record of a run that goes on is the one it began with, and when it went on.
        """
        if not self._lock.is_locked:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take()
            if not args.resume:
                self._refuse_earlier_run(args)  # that came and ended meanwhile
        for left in self.path.glob(".*.part"):  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if args.overwrite and not args.resume:
            self._remove_earlier_run(keep_weights=model_args.model_path)
        record = self._record() if checkpoint else None
        if record is None:
            record = record_of_run(model_args, data_args, args, data)
        else:
            record["resumed"] = [*record.get("resumed", []), resumption(checkpoint or "", args)]
        self._write(RECORD, record)

    def finish(self, results: dict[str, Any], predicted: list[pd.DataFrame]) -> None:
        """Write predictions, if there are any, and results."""
        if predicted:
            with self._said(PREDICTIONS), open_aside(self.path / PREDICTIONS) as file:
                pd.concat(predicted).sort_values(list(KEY_COLUMNS)).to_csv(file, index=False)
        self._write(RESULTS, results)

    def _remove_earlier_run(self, keep_weights: str | None) -> None:
        """Remove what a run killed from here on, or its --resume, would be taken to have made.

        Args:
            keep_weights: the model that training starts from; it stays if it is the one of this folder.
        """
        for path in checkpoints(self.path):
            shutil.rmtree(path)
        old = [self.path / name for name in (RESULTS, PREDICTIONS, REPORT)]
        if keep_weights is None or Path(keep_weights).resolve() != self.path.resolve():
            old += self.path.glob("model*.safetensors*")
        for path in old:
            path.unlink(missing_ok=True)

    def _write(self, name: str, value: dict[str, Any]) -> None:
        with self._said(name), open_aside(self.path / name) as file:
            file.write(json.dumps(_finite(value), indent=2, default=str, allow_nan=False) + "\n")

    @contextlib.contextmanager
    def _said(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(f"{self.path / name} could not be written: {error.strerror or error}") from error


def _finite(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
