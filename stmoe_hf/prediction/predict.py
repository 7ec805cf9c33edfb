"""From a model and windows to predicted records: one shot, or block by block fed back."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.windows import PredictionWindows
from ..model.decoding import BALANCED_DISTANCE_WEIGHT, decode
from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.spacetime import Grid
from .day_decoding import decode_days

OF_ROWS = ("city", "field_cells", "field_counts", "field_poi")  # of a batch, beside its records


@dataclass(frozen=True)
class PredictionSettings:
    """How cells are chosen.

    Attributes:
        decoder: one of `decoders.DECODERS`.
        distance_weight: of the `balanced` decoder, per kilometre.
        num_candidates: the candidates are so many of the most probable cells, and all of the history's.
        input_seq_length, predict_seq_length: records in and out of a block of the published regime, whose predictions
            are fed back as history; with `predict_seq_length` None the horizon is predicted in one shot.
        asked_alone: each asked-for record is answered from the history alone, whatever else is asked.
    """

    decoder: str = "balanced"
    distance_weight: float = BALANCED_DISTANCE_WEIGHT
    num_candidates: int = 32
    input_seq_length: int | None = None
    predict_seq_length: int | None = None
    asked_alone: bool = False


@torch.no_grad()
def predict_cells(
    model: torch.nn.Module, batch: dict[str, Tensor], grid: Grid, settings: PredictionSettings
) -> tuple[Tensor, Tensor]:
    """Cells of the asked-for records of a batch.

    Args:
        model: `STMoEBertForMobility` or another model with its inputs, wrapped or not.
        batch: `inputs` [B, T, 6], `attention_mask` [B, T], `labels` [B, T], and `city`,
            `field_cells`, `field_counts`, `field_poi` or none.
        grid: where the cells lie.
        settings: how cells are chosen.

    Returns:
        cells [B, Q], -100 where a row has fewer asked-for records, and the log-probability [B, Q] of the labels, 0
        where there is none.

    Raises:
        NoProbability: the model gives none for a row.
    """
    inputs, labels = batch["inputs"].clone(), batch["labels"]
    asked = (inputs[..., -1] == grid.mask_id) & (batch["attention_mask"] != 0)
    rank = asked.cumsum(-1) - 1  # number of an asked-for record in its row
    counts = asked.sum(-1)
    width = int(counts.max()) if len(counts) else 0
    cells = inputs.new_full((len(inputs), width), -100)
    log_probability = torch.zeros(cells.shape, device=inputs.device)
    block = settings.predict_seq_length or max(width, 1)
    for first in range(0, width, block):
        rows = torch.nonzero(counts > first)[:, 0]
        in_block = asked[rows] & (rank[rows] >= first) & (rank[rows] < first + block)
        part = _cut(inputs[rows], labels[rows], in_block, settings.input_seq_length, grid.pad_id)
        part |= {name: batch[name][rows] for name in OF_ROWS if name in batch}
        if settings.asked_alone:
            part["asked_alone"] = torch.ones(len(rows), dtype=torch.bool, device=inputs.device)
        output = model(**part, num_candidates=settings.num_candidates)
        probabilities = output.logits.exp()
        exists = torch.arange(probabilities.shape[1], device=inputs.device) < in_block.sum(-1, keepdim=True)
        _refuse_no_probability(probabilities, exists, rows)
        if settings.decoder == "day":
            history = getattr(output, "history", None)
            if history is None:
                raise ValueError(
                    "the day decoder needs a network with a history head; choose decoder balanced for this one"
                )
            chosen = decode_days(probabilities, output.candidates, history, part["inputs"], exists, grid)
        else:
            chosen = decode(probabilities, output.candidates, grid, settings.decoder, settings.distance_weight)
        if not getattr(getattr(model, "module", model).config, "cell_head", True):
            # Of a person without history such a network knows nothing; the centre is the least far from everywhere.
            nothing_known = torch.isneginf(output.history).all(-1)
            chosen = chosen.masked_fill(nothing_known, grid.centre)
        place = torch.zeros_like(asked)
        place[rows] = in_block
        inputs[..., -1][place] = chosen[exists]  # both sides in (row, time) order
        cells[rows[:, None].expand_as(chosen)[exists], rank[place]] = chosen[exists]
        log_probability[rows[:, None].expand_as(chosen)[exists], rank[place]] = output.log_probability[exists].float()
    return cells, log_probability


class NoProbability(ValueError):
    """The model gives no finite probabilities; `row` of the batch."""

    def __init__(self, row: int, who: str):
        super().__init__(f"{who}: the model gives probabilities that are no finite numbers, so nothing is predicted")
        self.row = row


def _refuse_no_probability(probabilities: Tensor, exists: Tensor, rows: Tensor) -> None:
    """Raise NoProbability, naming the row, where an asked-for record has no probable cell; [n, Q, K], [n, Q], [n]."""
    total = probabilities.sum(-1)
    wrong = (exists & ~(torch.isfinite(total) & (total > 0))).any(-1)
    if wrong.any():
        row = int(rows[wrong][0])
        raise NoProbability(row, f"row {row} of the batch")


def _cut(inputs: Tensor, labels: Tensor, in_block: Tensor, input_seq_length: int | None, pad_id: int) -> dict:
    """The records of each row up to the end of its block, at most `input_seq_length` of them before it."""
    length = in_block.shape[1]
    position = torch.arange(length, device=inputs.device)
    first = in_block.to(torch.uint8).argmax(-1)
    end = length - in_block.flip(-1).to(torch.uint8).argmax(-1)
    start = torch.zeros_like(first) if input_seq_length is None else (first - input_seq_length).clamp(min=0)
    width = int((end - start).max())
    index = start[:, None] + position[:width]
    inside = index < end[:, None]
    index = index.clamp(max=length - 1)
    cut = inputs.gather(1, index[..., None].expand(-1, -1, inputs.shape[-1]))
    cut[..., -1].masked_fill_(~inside, pad_id)
    mask = inside & (cut[..., -1] != pad_id)
    cut_labels = labels.gather(1, index).masked_fill(~(inside & in_block.gather(1, index)), -100)
    return {"inputs": cut, "attention_mask": mask.long(), "labels": cut_labels}


def window_records(windows: PredictionWindows, window: int, cells: np.ndarray) -> pd.DataFrame:
    """The predicted records of a window, columns uid, d, t, x, y."""
    asked = windows.asked_for(window)
    x, y = windows.city.grid.xy(cells[: len(asked["uid"])])
    return pd.DataFrame({"uid": asked["uid"], "d": asked["d"], "t": asked["t"], "x": x, "y": y})


def predict_windows(
    model: torch.nn.Module,
    windows: PredictionWindows,
    processor: MobilityProcessor,
    settings: PredictionSettings,
    batch_size: int = 8,
) -> Iterator[pd.DataFrame]:
    """Predicted records of one batch of users after another; memory does not grow with the users."""
    device = next(model.parameters()).device
    model.eval()
    loader: DataLoader = DataLoader(windows, batch_size=batch_size, collate_fn=processor.pad, shuffle=False)
    done = 0
    for batch in loader:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        try:
            cells, _ = predict_cells(model, batch, processor.grid, settings)
        except NoProbability as error:
            uid = windows.city.uids[windows.rows[done + error.row]]
            raise NoProbability(error.row, f"uid {uid}") from None
        rows = cells.cpu().numpy()
        yield pd.concat([window_records(windows, done + i, rows[i]) for i in range(len(rows))], ignore_index=True)
        done += len(rows)
