"""Cells that a person's history does not know: how likely they go to one, and to which.

Shapes: Q asked-for records of a row, T records of a row, P places (distinct cells) of its history, N candidates for a
new place, K cells that are asked about, F counts of a cell (of people, and where there are any of points of interest
behind them), H hidden.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_stmoe_bert import STMoEBertConfig
from .heads_stmoe_bert import STMoEBertFar, STMoEBertSpread
from .outputs_stmoe_bert import AskedFor
from .records import DAY, DAY_OFF, FIELD_COUNTS, POI_COUNTS, SLOT
from .spacetime import KINDS_OF_HOUR, kind_of_hour

FIRST_DAYS = (7, 14)  # how many last days of a history are looked at for cells that were new then
KM_SCALES = (0.5, 2.0, 8.0)  # over which the closeness of a cell to the places of a history falls by e
OWN_TIMES = 5  # places of the nights, of the working hours, of other hours, of the last days, of all records
RECENT_DAYS = 5.0
MOST_PLACES = 256  # the most visited, that a cell's closeness is measured to
NOVELTY_FEATURES = 11
FEATURE_SCALE = 3.0  # the weights of cells learn so much faster than those of the gate, which starts right
CELL_FEATURES = len(FIELD_COUNTS) + 1 + len(KM_SCALES) * OWN_TIMES + 5
# Start of the gate: the log-odds of a cell seen once, in the history and at this kind of hour (Good and Turing).
NOVELTY_START = {0: 0.25, 6: 0.6}
NEAR, FIELD, RING = range(3)  # what a new cell is drawn by
PARTS_START = (0.4, 0.5, 0.1)


@dataclass
class RowOfQuestions:
    """One row of a batch, as the field looks at it.

    Attributes:
        history: [T, 6] the known records, in time order.
        asked: [Q, 6] the asked-for records.
        states: [Q, H] of the encoder.
        places: [P] distinct cells of the history, in ascending order.
        weight: [Q, P] of the places, summing to 1.
        cells, counts: [N] cells that other people were seen in, or that have points of interest, ascending, and [N, F]
            what is known of them.
        scored: the candidates and their scores, once they are known.
    """

    history: Tensor
    asked: Tensor
    states: Tensor
    places: Tensor
    weight: Tensor
    cells: Tensor
    counts: Tensor
    scored: tuple[Tensor, Tensor, Tensor] | None = None


def row_of_questions(asked: AskedFor, row: int, places: Tensor, weight: Tensor) -> RowOfQuestions:
    """A row of what the heads know, made once, with its places [P] and their weights [Q, P]."""
    if row in asked.rows:
        return asked.rows[row]
    is_history = asked.is_history[row]
    cells, counts = places[:0], asked.states.new_zeros(0, len(FIELD_COUNTS), dtype=torch.float32)
    if asked.field_cells is not None:
        is_there = asked.field_cells[row] >= 0
        cells, counts = asked.field_cells[row, is_there], asked.field_counts[row, is_there].float()
        if asked.field_poi is not None:
            counts = torch.cat([counts, asked.field_poi[row, is_there].float()], dim=1)
    inputs = asked.inputs[row]
    asked.rows[row] = RowOfQuestions(
        inputs[is_history], inputs[asked.position[row]], asked.states[row], places, weight, cells, counts
    )
    return asked.rows[row]


class STMoEBertField(nn.Module):
    """The probability of cells, shared between those that the history knows and those that it does not.

    A gate tells how likely an asked-for record lies in a new cell: from the encoder's state, and from how often cells
    were new in the history itself (the share of records in cells seen once, after Good and Turing; the share of the
    last days' records in cells that were new then). What is known is shared by the weights of the history. What is
    new is drawn in one of three ways: beside the places of the history (the spread of their weights), by the rings of
    distance around them, or by the field, a distribution over candidate cells: those that other people were seen in,
    and those that touch a place. Its scores are learned functions of what is counted of a cell (how many people, when,
    whether they share places with this person) and of its distance to the person's own places, so no weight belongs to
    a cell of a city.
    """

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.height, self.width, self.cell_km = config.grid_height, config.grid_width, config.cell_km
        self.num_slots, self.scale = config.num_slots, config.slots_per_trained_slot
        self.gate = nn.Linear(config.hidden_size + NOVELTY_FEATURES, 1)
        self.parts = nn.Linear(config.hidden_size, len(PARTS_START))
        self.parts_untold = nn.Parameter(torch.empty(len(PARTS_START)))
        self.linear = nn.Linear(CELL_FEATURES, 1)
        self.hidden = nn.Linear(CELL_FEATURES, config.city_field_size)
        self.of_cell = nn.Linear(config.city_field_size, config.city_field_size)
        self.of_question = nn.Linear(config.hidden_size, config.city_field_size)
        # Without a bias: of cells without points of interest, and of cities without any, it says nothing.
        self.poi = (
            nn.Linear(len(POI_COUNTS), 1 + config.city_field_size, bias=False) if config.city_field_poi else None
        )

    def set_to_start(self) -> None:
        init.zeros_(self.gate.weight)
        for number, value in NOVELTY_START.items():
            init.constant_(self.gate.weight[:, self.gate.in_features - NOVELTY_FEATURES + number], value)
        init.zeros_(self.gate.bias)
        init.zeros_(self.parts.weight)
        init.copy_(self.parts.bias, torch.tensor(PARTS_START).log())
        init.zeros_(self.parts_untold)
        init.zeros_(self.linear.weight)
        init.zeros_(self.linear.bias)
        init.zeros_(self.of_question.weight)
        init.zeros_(self.of_question.bias)
        if self.poi is not None:
            init.zeros_(self.poi.weight)

    def forward(self, row: RowOfQuestions, cells: Tensor, spread: STMoEBertSpread, far: STMoEBertFar) -> Tensor:
        """Probabilities [Q, K] of cells [K]."""
        known_reach = spread.between(row.places[None], row.places[None])[0].exp()  # [P, P]
        stays = (row.weight @ known_reach.t()).sum(1)  # [Q] of the spread weights, what stays in known cells
        reach = row.weight @ spread.between(cells[None], row.places[None])[0].exp().t()  # [Q, K]
        novelty = torch.sigmoid(self.novelty(row, stays))[:, None]
        part = self.log_parts(row, stays).exp()
        in_field = self._in_field(row, cells)
        beside = reach / (1 - stays).clamp(min=1e-4)[:, None]
        new = novelty * (part[:, NEAR, None] * beside + part[:, FIELD, None] * in_field)
        known = (1 - novelty) * reach / stays.clamp(min=1e-9)[:, None]
        ring = far.shares(row.weight, far.log_rings(row.states), cells, row.places)
        return torch.where(torch.isin(cells, row.places), known, new) + novelty * part[:, RING, None] * ring

    def log_parts(self, row: RowOfQuestions, stays: Tensor) -> Tensor:
        """[Q, 3] how a new cell is drawn; not beside the places if the spread has no unknown cell, ...

        Who is told of nobody has candidates beside the places alone, and the rings must do for all the others.
        """
        scores = self.parts(row.states).float()
        if not len(row.cells):
            scores = scores + self.parts_untold.float()
        impossible = torch.zeros_like(scores, dtype=torch.bool)
        impossible[:, NEAR] = stays > 1 - 1e-4
        impossible[:, FIELD] = not len(self.scored(row)[0])
        return F.log_softmax(scores.masked_fill(impossible, -math.inf), dim=-1)

    # ---- How likely a new cell is ----

    def novelty(self, row: RowOfQuestions, stays: Tensor) -> Tensor:
        """Log-odds [Q] that an asked-for record lies in a cell which the history does not know."""
        features = self.novelty_features(row, stays).to(row.states.dtype)
        return self.gate(torch.cat([row.states, features], dim=-1))[:, 0].float()

    def novelty_features(self, row: RowOfQuestions, stays: Tensor) -> Tensor:
        """[Q, NOVELTY_FEATURES]: eight of the history, of which two of the hour; how far ahead; two of the weights."""
        day = row.history[:, DAY]
        _, place, visits = row.history[:, -1].unique(return_inverse=True, return_counts=True)
        once = (visits[place] == 1).float()
        first_day = torch.full_like(visits, int(day[-1]) + 1).scatter_reduce(0, place, day, "amin")[place]
        end = int(day[-1]) + 1
        span = end - int(day[0])
        kind, asked_kind = (
            kind_of_hour(records[:, SLOT], records[:, DAY_OFF], self.num_slots) for records in (row.history, row.asked)
        )
        of_kind = F.one_hot(kind, KINDS_OF_HOUR).float()  # [T, kinds]

        def log_odds(some: Tensor, of: Tensor) -> Tensor:
            """Of a share, drawn towards one in eleven by few records; counts in trained slots."""
            return ((some / self.scale + 0.3) / ((of - some) / self.scale + 3)).log()

        new, late = [], []
        for days in FIRST_DAYS:
            start = end - min(days, max(span // 2, 1))
            late.append((day >= start).float())
            new.append(late[-1] * (first_day >= start))
        # Of a kind of hour, with as much of the whole as one record.
        once_by_kind = log_odds(once @ of_kind + once.mean(), of_kind.sum(0) + 1)
        share_new = new[-1].sum() / late[-1].sum().clamp(min=1)
        new_by_kind = log_odds(new[-1] @ of_kind + share_new, late[-1] @ of_kind + 1)
        records, number = torch.full_like(once.sum(), len(once)), torch.full_like(once.sum(), len(visits))
        of_history = torch.stack(
            [
                log_odds(once.sum(), records),
                (records / self.scale).log() / 3,
                records.new_tensor(span).log() / 2,
                log_odds(number, records + 1),
                *(log_odds(n.sum(), some.sum()) for n, some in zip(new, late, strict=True)),
            ]
        )
        ahead = (row.asked[:, DAY] - end + 1).clamp(min=0).float().log1p() / 2
        spread_of_weight = -(row.weight * (row.weight + 1e-9).log()).sum(1) / 3
        leaves = torch.logit(1 - stays, eps=1e-3) / 3
        of_question = [once_by_kind[asked_kind], new_by_kind[asked_kind], ahead, spread_of_weight, leaves]
        return torch.cat([of_history.expand(len(row.asked), -1), torch.stack(of_question, dim=-1)], dim=-1)

    # ---- Which new cell ----

    def candidates(self, row: RowOfQuestions) -> tuple[Tensor, Tensor]:
        """Cells [N], ascending, of which none is in the history, and their counts [N, F], 0 where nobody was seen."""
        step = torch.tensor((-1, 0, 1), device=row.places.device)
        x = (row.places % self.width)[:, None, None] + step
        y = (row.places // self.width)[:, None, None] + step[:, None]
        inside = (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
        cells = torch.cat([(y * self.width + x)[inside], row.cells]).unique()
        cells = cells[~torch.isin(cells, row.places)]
        counts = row.counts.new_zeros(len(cells), row.counts.shape[1])
        if len(row.cells) and len(cells):
            counts = row.counts[_place_of(cells, row.cells)] * torch.isin(cells, row.cells)[:, None]
        return cells, counts

    def scored(self, row: RowOfQuestions) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates [N], their scores [N] that no question has a say in, and what questions weigh, [N, size]."""
        if row.scored is None:
            candidates, counts = self.candidates(row)
            people = counts[:, : len(FIELD_COUNTS)]
            features = self.cell_features(row, candidates, people).to(self.linear.weight.dtype)
            static, hidden = self.linear(features)[:, 0], self.hidden(features)
            if self.poi is not None:
                of_poi = self.poi(self.poi_features(counts).to(features.dtype))
                static, hidden = static + of_poi[:, 0], hidden + of_poi[:, 1:]
            row.scored = candidates, static, self.of_cell(F.gelu(hidden))
        return row.scored

    def likeliest(self, row: RowOfQuestions, count: int) -> Tensor:
        """The candidates, so many at most, that the field holds for the most probable whatever is asked."""
        candidates, static, _ = self.scored(row)
        return candidates[static.topk(min(count, len(candidates))).indices]

    def _in_field(self, row: RowOfQuestions, cells: Tensor) -> Tensor:
        """Share [Q, K] that the field gives to cells [K]; 0 to what is no candidate."""
        candidates, static, weighed = self.scored(row)
        if not len(candidates):
            return row.weight.new_zeros(len(row.states), len(cells))
        scores = torch.addmm(static, self.of_question(row.states), weighed.t()).float()  # [Q, N]
        chosen = scores[:, _place_of(cells, candidates)] - torch.logsumexp(scores, dim=1, keepdim=True)
        return chosen.exp() * torch.isin(cells, candidates)

    def cell_features(self, row: RowOfQuestions, cells: Tensor, counts: Tensor) -> Tensor:
        """[N, CELL_FEATURES]: what is counted of each cell, and how it lies to the places of the history."""
        day, slot = row.history[:, DAY], row.history[:, SLOT]
        place = torch.searchsorted(row.places, row.history[:, -1].contiguous())
        kind = kind_of_hour(slot, row.history[:, DAY_OFF], self.num_slots)
        times = (kind == 0, (kind == 1) | (kind == 2), kind >= 3, ((day - day[-1]) / RECENT_DAYS).exp(), kind >= 0)
        own = counts.new_zeros(len(row.places), OWN_TIMES)
        own.index_add_(0, place, torch.stack([weight.to(own.dtype) for weight in times], dim=-1))
        home = row.places[(own[:, 0] + 1e-3 * own[:, -1]).argmax()]
        most = own[:, -1].topk(min(MOST_PLACES, len(own))).indices
        places, own = row.places[most], own[most] / own.sum(0).clamp(min=1e-3)
        apart = self._apart(cells, places)  # [N, P] cells
        farthest = torch.exp(-apart * (self.cell_km / KM_SCALES[-1]))
        middle = farthest.square().square()  # each scale is a fourth of the next: one exp for all
        close = [middle.square().square(), middle, farthest]
        touches = (apart < 1.5).to(own.dtype).sum(1)
        parts = [
            counts[:, :-2].log1p() / 2,
            counts[:, 1 : 1 + KINDS_OF_HOUR].sum(1, keepdim=True).log1p() / 2,
            (counts[:, -2:] + 1e-3).log() / 2,
            *((near @ own + 1e-4).log() / 2 for near in close),
            (apart.amin(1) * self.cell_km).log1p()[:, None],
            *((self._apart(cells, one[None]) * self.cell_km).log1p() / 2 for one in (home, row.history[-1, -1])),
            touches.log1p()[:, None],
            (touches > 0).to(own.dtype)[:, None],
        ]
        return FEATURE_SCALE * torch.cat(parts, dim=1)

    def poi_features(self, counts: Tensor) -> Tensor:
        """[N, P] of points of interest, 0 where there are none or none are given."""
        points = counts[:, len(FIELD_COUNTS) :]
        if not points.shape[1]:
            points = counts.new_zeros(len(counts), len(POI_COUNTS))
        return FEATURE_SCALE * points.log1p() / 2

    def _apart(self, cells: Tensor, places: Tensor) -> Tensor:
        """How many cells [N, P] lie between cells [N] and places [P]."""
        dx = cells[:, None] % self.width - places % self.width
        dy = cells[:, None] // self.width - places // self.width
        return (dx * dx + dy * dy).float().sqrt()


def _place_of(cells: Tensor, ascending: Tensor) -> Tensor:
    """Where cells [K] stand in `ascending` [N], anywhere if they do not."""
    return torch.searchsorted(ascending, cells.contiguous()).clamp(max=len(ascending) - 1)
