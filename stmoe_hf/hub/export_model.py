"""A network as one file that runs without this package: `torch.export` (.pt2) or ONNX.

What is written is loaded again, in the runtime that it is for, and compared with the network before it takes its name.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.files import aside_of, refuse_unwritable, sweep
from ..model.experts_stmoe_bert import EVERY_EXPERT
from ..model.modeling_stmoe_bert import STMoEBertForMobility
from ..model.one_person_stmoe_bert import STMoEBertForOnePerson
from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.records import FIELD_COUNTS, POI_COUNTS
from ..model.spacetime import Calendar, Grid
from .export_formats import SUFFIXES

NEEDED = {"torch": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
# How far log-probabilities may lie from those of the network, all in fp32. Another runtime sums in another order.
TOLERANCE = {"torch": 1e-5, "onnx": 1e-4}
OUTPUT = "log_probabilities"


@dataclass(frozen=True)
class WindowSize:
    """How many of each a window has; where `asked` is `records`, nothing of the person is known."""

    records: int
    asked: int
    cells: int
    others: int


TRACED = WindowSize(records=60, asked=6, cells=40, others=50)
# One question, many records, a single known record, no history: what a traced size or branch would get wrong.
CHECKED = (WindowSize(41, 1, 9, 3), WindowSize(230, 70, 300, 400), WindowSize(8, 7, 2, 0), WindowSize(5, 5, 30, 20))

Run = Callable[[dict[str, Tensor]], Tensor]


def export_model(model: Any, output: str | Path, format: str | None = None) -> float:
    """Write a network as one file; what it takes and gives is told in `docs/runtimes.md`.

    Args:
        model: an `STMoEBertForMobility` for the grid and calendar of the data that the file is for.
        output: the file.
        format: torch or onnx; None: as the name of the file ends, .pt2 or .onnx.

    Returns:
        The largest difference between its log-probabilities and the network's, on windows of other sizes than the
        traced one.

    Raises:
        ValueError: the network is of another kind, a package is missing, or the file differs from the network, in
            which case there is none.
        OSError: the file cannot be written.
    """
    output = Path(output)
    format = _format(output, format)
    refuse_unwritable(output, (SUFFIXES[format],))
    _refuse_missing(format)
    if not isinstance(model, STMoEBertForMobility):
        raise ValueError(f"a {type(model).__name__} cannot be exported: the published networks have no such forward")
    model = copy.deepcopy(model).float().cpu().eval()  # type: ignore[arg-type]
    windows = [example(model, size, seed) for seed, size in enumerate((TRACED, *CHECKED))]
    # Before the trace also because tables of distances are made once a process, and not of traced tensors.
    expected = [_log_probabilities(model, window) for window in windows]
    sweep(output.parent)
    aside = aside_of(output)
    aside.mkdir()
    try:
        with _quiet():
            program = trace(model, windows[0])
            _save(program, aside / output.name, format)
            run = load(aside / output.name)
        found = [run(window) for window in windows]
        difference = max(_difference(a, b) for a, b in zip(found, expected, strict=True))
        if not difference <= TOLERANCE[format]:
            raise ValueError(
                f"what was exported differs from the network by {difference:.1g} in a log-probability (more than"
                f" {TOLERANCE[format]:g}): {output} was not written; try other versions of torch"
                + (" and onnxruntime" if format == "onnx" else "")
            )
        os.replace(aside / output.name, output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return difference


def trace(model: STMoEBertForMobility, window: dict[str, Tensor]) -> torch.export.ExportedProgram:
    """The program of a network, by an example of its inputs; the number of records, cells, ... is free in it."""
    model.set_experts_implementation(EVERY_EXPERT)
    free = torch.export.Dim.DYNAMIC
    one_size = {"asked_alone", "city"}
    shapes = {name: None if name in one_size else {0 if name == "cells" else 1: free} for name in window}
    with torch.no_grad():
        return torch.export.export(STMoEBertForOnePerson(model), (), window, dynamic_shapes=shapes, strict=False)


def load(file: Path) -> Run:
    """What was exported, as a function of a window that gives the log-probabilities [1, Q, K]."""
    if file.suffix == SUFFIXES["torch"]:
        module = torch.export.load(file).module()
        return lambda window: module(**window).detach()
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(window: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in window.items()})[0])

    return run


def example(model: STMoEBertForMobility, size: WindowSize, seed: int = 0) -> dict[str, Tensor]:
    """A made-up window of a network: what its program takes, by name."""
    config: Any = model.config
    grid = Grid(config.grid_width, config.grid_height, config.cell_km)
    calendar = Calendar(0, config.num_days, config.num_slots)
    slots = calendar.num_days * calendar.num_slots
    random = np.random.default_rng(seed)
    records = min(size.records, slots, config.max_seq_length)
    time = np.sort(random.choice(slots, records, replace=False))
    # Places near each other, most of which are visited more than once.
    x, y = (
        (random.integers(0, length) + random.geometric(0.3, records)) % length for length in (grid.width, grid.height)
    )
    cell = grid.cell(x + 1, y + 1)
    about = np.concatenate([cell[:1], random.integers(0, grid.num_cells, size.cells - 1)])
    cell[-size.asked :] = grid.mask_id
    processor = MobilityProcessor.for_data(grid, calendar)
    window = {
        "inputs": processor.features(time // calendar.num_slots, time % calendar.num_slots, cell)[None],
        "cells": about,
        "asked_alone": np.array([seed % 2 == 0]),
    }
    if config.city_field:
        others = min(size.others, grid.num_cells)
        known = np.sort(random.choice(grid.num_cells, others, replace=False))
        # As beside a longer row of a batch: two more that are none.
        window["field_cells"] = np.pad(known, (0, 2), constant_values=-1)[None]
        columns = {"field_counts": FIELD_COUNTS} | ({"field_poi": POI_COUNTS} if config.city_field_poi else {})
        for name, counted in columns.items():
            numbers = random.integers(0, 9, (others, len(counted))).astype(np.float32)
            window[name] = np.pad(numbers, ((0, 2), (0, 0)))[None]
    if config.cities:
        window["city"] = np.array([seed % (len(config.cities) + 1) - 1])
    return {name: torch.from_numpy(values) for name, values in window.items()}


@torch.no_grad()
def _log_probabilities(model: STMoEBertForMobility, window: dict[str, Tensor]) -> Tensor:
    """What the network's own forward says, [1, Q, K]."""
    told = {name: values for name, values in window.items() if name != "cells"}
    return model(**told).logits[None, :, window["cells"]]


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference of numbers, infinite where shapes differ or one of two is no number."""
    if found.shape != expected.shape:
        return math.inf
    apart = torch.where(found == expected, 0.0, (found - expected).abs())
    return float(apart.nan_to_num(nan=math.inf).max())


def _save(program: torch.export.ExportedProgram, file: Path, format: str) -> None:
    if format == "torch":
        torch.export.save(program, file)
        return
    table = torch.export.default_decompositions()
    table.update(IN_TERMS_OF_ONNX)
    with torch.no_grad():
        program = program.run_decompositions(table)
        made = torch.onnx.export(program, (), dynamo=True, verbose=False, output_names=[OUTPUT])
    assert made is not None
    made.save(file, external_data=False)


# ---- What ONNX has no operator for, or this version of torch no translation ----


def _searched(ascending: Tensor, values: Tensor, **options: Any) -> Tensor:
    """`torch.searchsorted` in a table [N]: sorted among its numbers, a value comes before those that equal it."""
    _, order = _sorted(torch.cat([values, ascending]))
    so_far = (order >= values.shape[0]).long().cumsum(0)
    return torch.zeros_like(order).scatter(0, order, so_far)[: values.shape[0]]


def _sorted(values: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """ONNX's TopK, which sorting becomes, puts the first of equals first."""
    return torch.ops.aten.sort.default(values, dim, descending)


def _hypot(a: Tensor, b: Tensor) -> Tensor:
    return (a * a + b * b).sqrt()


IN_TERMS_OF_ONNX = {
    torch.ops.aten.searchsorted.Tensor: _searched,
    torch.ops.aten.sort.stable: _sorted,
    torch.ops.aten.hypot.default: _hypot,
}


def _format(output: Path, format: str | None) -> str:
    """The format that is asked for, or that the name of the file says."""
    if format is None:
        format = next((name for name, suffix in SUFFIXES.items() if output.suffix == suffix), None)
    if format is None:
        raise ValueError(f"{output} must end in {' or '.join(SUFFIXES.values())}, or the format must be given")
    if format not in SUFFIXES:
        raise ValueError(f"the format is {format!r}; it can be {', '.join(SUFFIXES)}")
    return format


def _refuse_missing(format: str) -> None:
    missing = [name for name in NEEDED[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"the format {format} needs {', '.join(missing)}: pip install 'stmoe-hf[{format}]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says to those who develop its exporters."""
    names = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
