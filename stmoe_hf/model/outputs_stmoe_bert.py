"""What the networks return, and what their heads share.

Shapes: B rows (windows), T records of a row, Q asked-for records of a row, N asked-for records of a batch, C cells of
the grid, K candidate cells of a row, E experts, H hidden.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput


@dataclass
class STMoEBertOutput(ModelOutput):
    """What `STMoEBertForMobility` returns.

    Args:
        loss: cross-entropy of the labelled records plus the weighted balance loss, if labels are given.
        logits: [N, C] log-probabilities of all cells for the asked-for records, in (row, time) order; with
            `num_candidates`, [B, Q, K] log-probabilities of each row's candidate cells.
        candidates: [B, K] candidate cells of each row, -1 where a row has fewer.
        history: with `num_candidates`, [B, Q, T] log-weights of the records of each row's history, -inf elsewhere;
            None without a history head.
        log_probability: [B, Q] of the labels, if given; 0 where there is none.
        aux_loss: the balance loss before its weight.
        expert_load: [sparse layers, E] share of the records' choices that went to each expert.
        router_logits: [B * T, E] for each sparse layer, on request.
        hidden_states, attentions: of the encoder, on request.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    candidates: Tensor | None = None
    history: Tensor | None = None
    log_probability: Tensor | None = None
    aux_loss: Tensor | None = None
    expert_load: Tensor | None = None
    router_logits: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class AskedFor:
    """What the heads know of the asked-for records of a batch.

    Attributes:
        states: [B, Q, H] of the encoder.
        exists: [B, Q]; a row may have fewer.
        alone: [B] whether each is answered alone; None: no row is.
        inputs: [B, T, 6], as in the forward; None without them.
        position: [B, Q] of the asked-for records among them.
        rows: what the field made of each row so far.
        places: of each row so far, the places of its history, what they spread inside the grid, and their
            weights.
        novelty: what the field makes of the histories, [B, Q, features], once it is known.
        is_history: [B, T] which records' cells are known; None without inputs or a history head.
        field_cells, field_counts: [B, N] and [B, N, F], as in the forward; None without other people.
        field_poi: [B, N, P], as in the forward; None without points of interest.
        cell: [B, T] cells of all records, at what is no history any cell of the grid.
        history: [B, Q, T] log-weights of the history's records, -inf elsewhere; None without a history head.
        to_history, to_others: [B, Q] log-weights of the history and of what is not history; None likewise.
    """

    states: Tensor
    exists: Tensor
    alone: Tensor | None = None
    inputs: Tensor | None = None
    position: Tensor | None = None
    field_cells: Tensor | None = None
    field_counts: Tensor | None = None
    field_poi: Tensor | None = None
    rows: dict[int, Any] = field(default_factory=dict)
    places: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    novelty: Tensor | None = None
    is_history: Tensor | None = None
    cell: Tensor | None = None
    history: Tensor | None = None
    to_history: Tensor | None = None
    to_others: Tensor | None = None


def padded_candidates(asked: AskedFor, rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Logits [Q, K] and candidates [K] of each row -> [B, Q, K] and [B, K], with -inf and -1 beyond a row's own."""
    width = max((len(cells) for _, cells in rows), default=0)
    if not rows:
        return asked.states.new_zeros(0, 0, 0), asked.exists.new_zeros(0, 0, dtype=torch.long)
    logits = torch.stack([F.pad(row, (0, width - row.shape[1]), value=-math.inf) for row, _ in rows])
    candidates = torch.stack([F.pad(cells, (0, width - len(cells)), value=-1) for _, cells in rows])
    return logits, candidates
