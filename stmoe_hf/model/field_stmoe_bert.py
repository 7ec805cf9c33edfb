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
from .distances_stmoe_bert import STEPS
from .embeddings_stmoe_bert import find_places
from .heads_stmoe_bert import STMoEBertFar, STMoEBertSpread
from .outputs_stmoe_bert import AskedFor
from .records import CELL, DAY, DAY_OFF, FIELD_COUNTS, POI_COUNTS, SLOT
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
NO_CANDIDATE = -1e4  # score of what is none, and stands among the candidates so that there always is one
NEAR, FIELD, RING = range(3)  # what a new cell is drawn by
PARTS_START = (0.4, 0.5, 0.1)


@dataclass
class RowOfQuestions:
    """One row of a batch, as the field looks at it.

    Attributes:
        history: [T, 6] the known records, in time order, and last: [6] the last of them.
        states: [Q, H] of the encoder.
        novelty: [Q, NOVELTY_FEATURES - 2], what the history says of how likely a new cell is.
        places: [P] distinct cells of the history, in ascending order.
        inside: [P] what `STMoEBertSpread.log_inside` says of them.
        place: [T] number of each known record's place.
        weight: [Q, P] of the places, summing to 1.
        cells, counts: [N] cells that other people were seen in, or that have points of interest, ascending, the number
            of all cells behind them where a row of the batch has fewer, and [N, F] what is known of them.
        scored: the candidates and their scores, once they are known.
    """

    history: Tensor
    last: Tensor
    states: Tensor
    novelty: Tensor
    places: Tensor
    inside: Tensor
    place: Tensor
    weight: Tensor
    cells: Tensor
    counts: Tensor
    scored: tuple[Tensor, Tensor, Tensor] | None = None


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
        self.no_cell = config.num_cells
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

    def row_of(self, asked: AskedFor, row: int, places: Tensor, inside: Tensor, weight: Tensor) -> RowOfQuestions:
        """A row of what the heads know, made once, with its places [P], as `RowOfQuestions` has them.

        No size in here and in the field depends on other data than the number of known records and of their places.
        """
        if row in asked.rows:
            return asked.rows[row]
        if asked.novelty is None:
            asked.novelty = self.novelty_features(asked)
        is_history = asked.is_history[row]
        inputs = asked.inputs[row]
        history = inputs.index_select(0, is_history.nonzero()[:, 0])
        last = (is_history * torch.arange(inputs.shape[0], device=inputs.device)).argmax(keepdim=True)
        cells, counts = inputs.new_zeros(0), asked.states.new_zeros(0, len(FIELD_COUNTS), dtype=torch.float32)
        if asked.field_cells is not None:
            cells, counts = asked.field_cells[row], asked.field_counts[row].float()
            cells = torch.where(cells >= 0, cells, self.no_cell)
            if asked.field_poi is not None:
                counts = torch.cat([counts, asked.field_poi[row].float()], dim=1)
        asked.rows[row] = RowOfQuestions(
            history=history,
            last=inputs.index_select(0, last)[0],
            states=asked.states[row],
            novelty=asked.novelty[row],
            places=places,
            inside=inside,
            place=torch.searchsorted(places, history[:, CELL].contiguous()),
            weight=weight,
            cells=cells,
            counts=counts,
        )
        return asked.rows[row]

    def forward(self, row: RowOfQuestions, cells: Tensor, spread: STMoEBertSpread, far: STMoEBertFar) -> Tensor:
        """Probabilities [Q, K] of cells [K]."""
        both = torch.cat([row.places, cells])
        reach = spread.between(both[None], row.places[None], row.inside[None])[0].exp()  # [P + K, P]
        known_reach, reach = reach.split([row.places.shape[0], cells.shape[0]])
        stays = row.weight @ known_reach.sum(0)  # [Q] of the spread weights, what stays in known cells
        reach = row.weight @ reach.t()  # [Q, K]
        novelty = torch.sigmoid(self.novelty(row, stays))[:, None]
        part = self.log_parts(row, stays).exp()
        in_field = self._in_field(row, cells)
        beside = reach / (1 - stays).clamp(min=1e-4)[:, None]
        new = novelty * (part[:, NEAR, None] * beside + part[:, FIELD, None] * in_field)
        known = (1 - novelty) * reach / stays.clamp(min=1e-9)[:, None]
        ring = far.shares(row.weight, far.log_rings(row.states), cells, row.places)
        return torch.where(_stands(cells, row.places)[1], known, new) + novelty * part[:, RING, None] * ring

    def log_parts(self, row: RowOfQuestions, stays: Tensor) -> Tensor:
        """[Q, 3] how a new cell is drawn; not beside the places if the spread has no unknown cell, ...

        Who is told of nobody has candidates beside the places alone, and the rings must do for all the others.
        """
        untold = (row.cells == self.no_cell).all()
        scores = self.parts(row.states).float() + self.parts_untold.float() * untold
        no_field = (self.scored(row)[0] == self.no_cell).all().expand_as(stays)
        impossible = torch.stack([stays > 1 - 1e-4, no_field, torch.zeros_like(no_field)], dim=-1)
        return F.log_softmax(scores.masked_fill(impossible, -math.inf), dim=-1)

    # ---- How likely a new cell is ----

    def novelty(self, row: RowOfQuestions, stays: Tensor) -> Tensor:
        """Log-odds [Q] that an asked-for record lies in a cell which the history does not know."""
        spread_of_weight = -(row.weight * (row.weight + 1e-9).log()).sum(1) / 3
        leaves = torch.logit(1 - stays, eps=1e-3) / 3
        parts = [row.states, row.novelty, spread_of_weight[:, None], leaves[:, None]]
        return self.gate(torch.cat([part.to(row.states.dtype) for part in parts], dim=-1))[:, 0].float()

    def novelty_features(self, asked: AskedFor) -> Tensor:
        """[B, Q, NOVELTY_FEATURES - 2], all but two of the weights: eight of the history, of which two of the hour;
        how far ahead. Of rows without history no numbers."""
        is_history, day = asked.is_history, asked.inputs[..., DAY]
        known = is_history.float()
        place, cell = find_places(asked.cell, is_history)  # [B, T], [B, P]
        visits = known.new_zeros(cell.shape).scatter_add(1, place, known)
        once = (visits.gather(1, place) == 1) * known
        end = (day * is_history).amax(1, keepdim=True) + 1  # [B, 1]
        first_day = end.expand_as(cell).scatter_reduce(1, place, day, "amin").gather(1, place)
        span = end - torch.where(is_history, day, end).amin(1, keepdim=True)
        kind = kind_of_hour(asked.inputs[..., SLOT], asked.inputs[..., DAY_OFF], self.num_slots)  # [B, T]

        def log_odds(some: Tensor, of: Tensor) -> Tensor:
            """Of a share, drawn towards one in eleven by few records; counts in trained slots."""
            return ((some / self.scale + 0.3) / ((of - some) / self.scale + 3)).log()

        def by_kind(what: Tensor) -> Tensor:
            """Sum of `what` [B, T] for each kind of hour [B, kinds]."""
            return what.new_zeros(what.shape[0], KINDS_OF_HOUR).scatter_add(1, kind, what)

        new, late = [], []
        for days in FIRST_DAYS:
            start = end - (span // 2).clamp(1, days)
            late.append((day >= start) * known)
            new.append(late[-1] * (first_day >= start))
        records, number = known.sum(1, keepdim=True), (visits > 0).sum(1, keepdim=True)
        # Of a kind of hour, with as much of the whole as one record.
        once_by_kind = log_odds(by_kind(once) + once.sum(1, keepdim=True) / records, by_kind(known) + 1)
        share_new = new[-1].sum(1, keepdim=True) / late[-1].sum(1, keepdim=True).clamp(min=1)
        new_by_kind = log_odds(by_kind(new[-1]) + share_new, by_kind(late[-1]) + 1)
        of_history = [
            log_odds(once.sum(1, keepdim=True), records),
            (records / self.scale).log() / 3,
            span.float().log() / 2,
            log_odds(number, records + 1),
            *(log_odds(n.sum(1, keepdim=True), some.sum(1, keepdim=True)) for n, some in zip(new, late, strict=True)),
        ]
        asked_kind = kind.gather(1, asked.position)
        of_question = [
            once_by_kind.gather(1, asked_kind),
            new_by_kind.gather(1, asked_kind),
            (day.gather(1, asked.position) - end + 1).clamp(min=0).float().log1p() / 2,
        ]
        return torch.stack([*(of_row.expand_as(asked_kind) for of_row in of_history), *of_question], dim=-1)

    # ---- Which new cell ----

    def candidates(self, row: RowOfQuestions) -> tuple[Tensor, Tensor, Tensor]:
        """Cells [N], ascending, of which none is in the history, and their counts [N, F], 0 where nobody was seen.

        The last is always `no_cell`. Also the numbers [P, 9] of those in and around each place, the last's for others.
        """
        step = torch.tensor(STEPS, device=row.places.device)
        x = (row.places % self.width)[:, None] + step[:, 0]
        y = (row.places // self.width)[:, None] + step[:, 1]
        inside = (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
        around = torch.where(inside, y * self.width + x, self.no_cell)
        cells = torch.cat([row.cells, around.flatten()])
        cells = torch.where(_stands(cells, row.places)[1], self.no_cell, cells)
        cells, index = F.pad(cells, (0, 1), value=self.no_cell).unique(return_inverse=True)
        torch._check(cells.shape[0] >= 1)
        counts = row.counts.new_zeros(cells.shape[0], row.counts.shape[1])
        counts = counts.index_put((index[: row.cells.shape[0]],), row.counts)
        return cells, counts, index[row.cells.shape[0] : -1].view(around.shape)

    def scored(self, row: RowOfQuestions) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates [N], their scores [N] that no question has a say in, and what questions weigh, [N, size]."""
        if row.scored is None:
            candidates, counts, beside = self.candidates(row)
            people = counts[:, : len(FIELD_COUNTS)]
            features = self.cell_features(row, candidates, people, beside).to(self.linear.weight.dtype)
            static, hidden = self.linear(features)[:, 0], self.hidden(features)
            if self.poi is not None:
                of_poi = self.poi(self.poi_features(counts).to(features.dtype))
                static, hidden = static + of_poi[:, 0], hidden + of_poi[:, 1:]
            static = static.masked_fill(candidates == self.no_cell, NO_CANDIDATE)
            row.scored = candidates, static, self.of_cell(F.gelu(hidden))
        return row.scored

    def likeliest(self, row: RowOfQuestions, count: int) -> Tensor:
        """The candidates, so many at most, that the field holds for the most probable whatever is asked."""
        candidates, static, _ = self.scored(row)
        return candidates[static[:-1].topk(min(count, len(candidates) - 1)).indices]

    def _in_field(self, row: RowOfQuestions, cells: Tensor) -> Tensor:
        """Share [Q, K] that the field gives to cells [K]; 0 to what is no candidate."""
        candidates, static, weighed = self.scored(row)
        index, is_candidate = _stands(cells, candidates)
        scores = torch.addmm(static, self.of_question(row.states), weighed.t()).float()  # [Q, N]
        return F.softmax(scores, dim=1).index_select(1, index) * is_candidate

    def cell_features(self, row: RowOfQuestions, cells: Tensor, counts: Tensor, beside: Tensor) -> Tensor:
        """[N, CELL_FEATURES]: what is counted of each cell, and how it lies to the places of the history.

        Args:
            row: the questions.
            cells, counts, beside: as `candidates` gives them, the counts without those of points of interest.
        """
        day, slot = row.history[:, DAY], row.history[:, SLOT]
        kind = kind_of_hour(slot, row.history[:, DAY_OFF], self.num_slots)
        recently = ((day - row.last[DAY]) / RECENT_DAYS).exp()
        times = (kind == 0, (kind == 1) | (kind == 2), kind >= 3, recently, kind >= 0)
        own = counts.new_zeros(OWN_TIMES, row.places.shape[0])
        own = own.scatter_add(
            1, row.place.expand(OWN_TIMES, -1), torch.stack([weight.to(own.dtype) for weight in times])
        )
        home = row.places.index_select(0, (own[0] + 1e-3 * own[-1]).argmax(keepdim=True))
        most = own[-1].argsort(descending=True, stable=True)[:MOST_PLACES]
        places, own = row.places[most], own[:, most] / own.sum(1, keepdim=True).clamp(min=1e-3)
        apart = self._apart(cells, places)  # [P, N] cells; what is summed over places stands in its lines
        nearest = apart.amin(0)
        farthest = apart.mul_(-self.cell_km / KM_SCALES[-1]).exp_()
        middle = farthest.square().square_()  # each scale is a fourth of the next: one exp for all
        close = [own @ farthest, own @ middle]
        # Of what is far hardly anything is left: no number so small that a processor is slow with it.
        close.append(own @ middle.clamp_(min=1e-9).square_().square_())
        is_most = torch.zeros_like(row.places, dtype=own.dtype).scatter(0, most, 1.0)
        touches = own.new_zeros(cells.shape[0])
        touches = touches.scatter_add(0, beside.flatten(), is_most[:, None].expand_as(beside).flatten())
        counts = counts.t().contiguous()
        parts = [
            counts[:-2].log1p() / 2,
            counts[1 : 1 + KINDS_OF_HOUR].sum(0, keepdim=True).log1p() / 2,
            (counts[-2:] + 1e-3).log() / 2,
            *((near + 1e-4).log() / 2 for near in reversed(close)),
            (nearest * self.cell_km).log1p()[None],
            *((self._apart(cells, one) * self.cell_km).log1p() / 2 for one in (home, row.last[CELL:])),
            touches.log1p()[None],
            (touches > 0).to(own.dtype)[None],
        ]
        return FEATURE_SCALE * torch.cat(parts).t()

    def poi_features(self, counts: Tensor) -> Tensor:
        """[N, P] of points of interest, 0 where there are none or none are given."""
        points = counts[:, len(FIELD_COUNTS) :]
        if not points.shape[1]:
            points = counts.new_zeros(len(counts), len(POI_COUNTS))
        return FEATURE_SCALE * points.log1p() / 2

    def _apart(self, cells: Tensor, places: Tensor) -> Tensor:
        """How many cells [P, N] lie between places [P] and cells [N]."""
        dx, dy = (
            of_places[:, None].float() - of_cells.float()
            for of_places, of_cells in (
                (places % self.width, cells % self.width),
                (places // self.width, cells // self.width),
            )
        )
        return dx.square_().addcmul_(dy, dy).sqrt_()


def _stands(cells: Tensor, ascending: Tensor) -> tuple[Tensor, Tensor]:
    """Where cells [K] stand in `ascending` [N], anywhere if they do not, and [K] whether they do."""
    index = torch.searchsorted(ascending, cells.contiguous()).clamp(max=ascending.shape[0] - 1)
    return index, ascending[index] == cells
