"""From the columns of a record to its vector: when it was, and what its cell is to the person.

Shapes: B rows (windows), T records of a row, Q asked-for records of a row, N asked-for records of a batch, C cells of
the grid, K candidate cells of a row, E experts, H hidden.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_stmoe_bert import STMoEBertConfig
from .distances_stmoe_bert import STEPS, proximity_by_offset
from .records import CELL, DAY, DAY_OFF, DELTA, SLOT, WEEKDAY

# What `STMoEBertRecordFeatures` gives for each record, in order; the last two are not of its cell.
RECORD_FEATURES = (
    *("visits", "visits_near", "days_with_a_visit", "days_since", "share_at_night", "share_in_office_hours"),
    *("share_on_days_off", "share_of_records", "km_from_home", "records"),
    *("records_of_the_day", "time_to_next"),
)
NEAR_RADIUS = 4  # how far "near" reaches, in trained cells along x and y


class STMoEBertRecordFeatures(nn.Module):
    """What a cell is to the person, for each record of the history: how often, when and how long ago it was visited.

    Cell ids mean other places in another city; these numbers mean the same everywhere. They are counted in the row
    itself, over its history, for the places (distinct cells) that it holds: nothing here is as large as the grid.
    """

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.height, self.width, self.mask_id = config.grid_height, config.grid_width, config.mask_id
        self.num_slots, self.slots_per_trained_slot = config.num_slots, config.slots_per_trained_slot
        self.cell_km, self.trained_cell_km = config.cell_km, config.trained_cell_km

    def forward(self, inputs: Tensor, is_history: Tensor, records_of_the_day: Tensor, time_to_next: Tensor) -> Tensor:
        """Features of each record; those of its cell are 0 where the cell is asked for.

        Args:
            inputs: [B, T, 6].
            is_history: [B, T] whether a record's cell is known.
            records_of_the_day, time_to_next: [B, T], in trained slots, 0 where they are not to be known.

        Returns:
            [B, T, features] fp32, in the order of `RECORD_FEATURES`.
        """
        history = is_history.float()
        day, slot = inputs[..., DAY], inputs[..., SLOT]
        place, cell = find_places(inputs[..., CELL], is_history)  # [B, T], [B, P]
        scale = self.slots_per_trained_slot

        def count(what: Tensor) -> Tensor:
            """Sum of `what` [B, T] over the history, for each place [B, P]."""
            return what.new_zeros(cell.shape).scatter_add_(1, place, what * history)

        def of_records(values: Tensor) -> Tensor:
            return values.gather(1, place)

        at_night = slot < self.num_slots // 4
        in_office_hours = (slot >= self.num_slots * 3 // 8) & (slot < self.num_slots * 3 // 4)
        visits, visits_at_night = count(history), count(at_night.float())
        near, home = self._around(visits, visits_at_night, cell)
        last = torch.full_like(visits, -1.0).scatter_reduce_(1, place, day.float() * history - (1 - history), "amax")
        now = (day * is_history).amax(1, keepdim=True).float() + 1
        own = of_records(visits).clamp(min=1)
        total = (history.sum(1, keepdim=True) / scale).clamp(min=1)
        visits_of_record = (own / scale).clamp(min=1)
        x, y = inputs[..., CELL] % self.width, inputs[..., CELL] // self.width
        apart = torch.hypot((x - home % self.width).float(), (y - home // self.width).float())
        of_the_cell = [
            visits_of_record.log() / 4,
            (of_records(near) / scale).log1p() / 4,
            of_records(count(self._first_of_day(day, place, is_history))).log1p() / 3,
            (now - of_records(last)).clamp(min=1).log() / 3,
            of_records(visits_at_night) / own,
            of_records(count(in_office_hours.float())) / own,
            of_records(count(inputs[..., DAY_OFF].float())) / own,
            (visits_of_record / total).log() / 4,
            (apart * self.cell_km).log1p() / 2,
            (total / 1000).expand_as(own),
        ]
        of_the_sequence = [records_of_the_day.log1p() / 3, time_to_next.log1p() / 3]
        features = torch.stack(of_the_cell, dim=-1) * history[..., None]
        return torch.cat([features, torch.stack(of_the_sequence, dim=-1)], dim=-1)

    def _around(self, visits: Tensor, at_night: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Of places `cell` [B, P] with their visits [B, P]: visits near each [B, P], by their proximity, and the home.

        The home [B, 1] is the cell, visited or beside one that was, around which most nights were spent (the lowest
        such).
        """
        proximity = self._proximity(cell)
        beside = proximity.shape[-1]
        counts = torch.stack([visits, at_night + 1e-3 * visits], dim=1)  # [B, 2, P]
        near, nights = (counts @ proximity.flatten(2)).unflatten(2, (-1, beside)).unbind(1)  # [B, P, 9] each
        step = torch.tensor(STEPS, device=cell.device)
        x, y = (cell % self.width)[..., None] + step[:, 0], (cell // self.width)[..., None] + step[:, 1]
        inside = (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
        worth = nights.masked_fill(~inside, -1.0).flatten(1)
        is_best = worth >= worth.amax(1, keepdim=True) * (1 - 1e-6)
        home = torch.where(is_best, (y * self.width + x).flatten(1), self.mask_id).amin(1, keepdim=True)
        return near[..., STEPS.index((0, 0))], home

    def _proximity(self, cell: Tensor) -> Tensor:
        """[B, P, P, 9] of the places [B, P] of the first P to the nine cells in and around those of the second."""
        radius, table = proximity_by_offset(NEAR_RADIUS, self.cell_km / self.trained_cell_km)
        x, y = (cell % self.width).int(), (cell // self.width).int()
        # What lies beyond the table is as far as what lies at its rim.
        dx, dy = ((at[:, None, :] - at[:, :, None]).clamp_(-radius, radius) for at in (x, y))
        index = dy.add_(radius).mul_(2 * radius + 1).add_(dx).add_(radius)
        return table.to(cell.device).index_select(0, index.flatten()).view(*index.shape, len(STEPS))

    def _first_of_day(self, day: Tensor, place: Tensor, is_history: Tensor) -> Tensor:
        """1 at one record of each (day, place) of the history, 0 elsewhere."""
        key = torch.where(is_history, day * place.shape[1] + place, -1)
        key, order = key.sort(dim=-1, stable=True)
        first = F.pad((key[:, 1:] != key[:, :-1]).float(), (1, 0), value=1.0)
        return torch.zeros_like(first).scatter_(1, order, first)


def find_places(cell: Tensor, is_history: Tensor) -> tuple[Tensor, Tensor]:
    """The places (distinct cells) of each row's history.

    Args:
        cell: [B, T] cells.
        is_history: [B, T]; what is no history shares one place behind the others, which nothing is counted in.

    Returns:
        [B, T] the place of each record, [B, P] the cell of each place, 0 where a row has fewer.
    """
    none = torch.iinfo(cell.dtype).max
    key, order = torch.where(is_history, cell, none).sort(dim=-1)
    rank = F.pad((key[:, 1:] != key[:, :-1]).long().cumsum(1), (1, 0))
    place = torch.zeros_like(rank).scatter_(1, order, rank)
    count = rank.max().item() + 1 if rank.numel() else 1
    torch._check(count >= 1)
    cells = cell.new_zeros(len(cell), count).scatter_(1, rank, torch.where(key == none, 0, key))
    return place, cells


def of_the_sequence(
    inputs: Tensor, is_record: Tensor, is_history: Tensor, asked_alone: Tensor | None, num_slots: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What a record's neighbours in time say: time since the one before, to the next one, and records of its day.

    Of a row that is asked alone the asked-for records are nobody's neighbours: a record's neighbours are the known
    ones before and after it, and of an asked-for record only the time since the last known one is told. So an answer
    depends on nothing else that is asked.

    Args:
        inputs: [B, T, 6], in time order.
        is_record, is_history: [B, T].
        asked_alone: [B] bool, or None: no row is.
        num_slots: of a day.

    Returns:
        [B, T] each: slots since the record before, slots to the next (0 for the last), records of the same day.
    """
    delta = inputs[..., DELTA]
    to_next = F.pad(delta[:, 1:], (0, 1)) * is_record
    counted = is_record
    if asked_alone is not None:
        alone = asked_alone[:, None]
        time = inputs[..., DAY] * num_slots + inputs[..., SLOT]
        so_far = is_history.long().cumsum(1)
        rank = so_far - is_history.long()  # how many of the history come before
        # The times of the history one after another, between two of which there is none.
        known = F.pad(torch.zeros_like(time), (1, 2)).scatter_add_(1, rank + 1, time * is_history)
        before, after = known.gather(1, rank), known.gather(1, so_far + 1)
        delta = torch.where(alone, torch.where((rank > 0) & is_record, time - before, 0), delta)
        is_last = so_far == so_far[:, -1:]
        to_next = torch.where(alone, torch.where(~is_last & is_history, after - time, 0), to_next)
        counted = is_history | (is_record & ~alone)
    day = inputs[..., DAY]
    run = F.pad((day[:, 1:] != day[:, :-1]).long().cumsum(1), (1, 0))
    of_the_day = torch.zeros_like(run).scatter_add_(1, run, counted.long()).gather(1, run) * counted
    return delta, to_next, of_the_day


class STMoEBertCityEmbedding(nn.Embedding):
    """A vector for each city that was trained on, which starts at 0; a city that was not gets the mean of them."""

    def forward(self, city: Tensor | None, rows: int) -> Tensor:
        """city [B] ids, -1 where unknown, or None -> [B, 1, H]."""
        unknown = self.weight.mean(0)
        if city is None:
            return unknown.expand(rows, 1, -1)
        return torch.where((city < 0)[:, None], unknown, super().forward(city.clamp(min=0)))[:, None]


class STMoEBertEmbeddings(nn.Module):
    """Where and when of a record: embeddings concatenated, normalised, projected to the hidden size."""

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        tables = {
            "day": (config.num_days, config.day_embedding_size),
            "time": (config.trained_num_slots, config.time_embedding_size),
            "day_of_week": (7, config.day_of_week_embedding_size),
            "weekday": (2, config.weekday_embedding_size),
        }
        self.temporal = nn.ModuleDict({name: nn.Embedding(*size) for name, size in tables.items() if size[1]})
        self.columns = {"day": DAY, "time": SLOT, "day_of_week": WEEKDAY, "weekday": DAY_OFF}
        width = sum(table.embedding_dim for table in self.temporal.values()) + 1  # and the delta
        self.location = None
        if config.location_embedding_size:
            # The cells, then the cell of an asked-for record, then that of padding.
            self.location = nn.Embedding(config.num_cells + 2, config.location_embedding_size)
            width += config.location_embedding_size
        self.record_features = None
        if config.record_features:
            self.record_features = STMoEBertRecordFeatures(config)
            width += len(RECORD_FEATURES)
        self.city = STMoEBertCityEmbedding(len(config.cities), config.hidden_size) if config.cities else None
        self.is_asked = nn.Embedding(2, config.hidden_size)
        self.mask_id, self.num_slots = config.mask_id, config.num_slots
        self.slots_per_trained_slot = config.slots_per_trained_slot
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.projection = nn.Linear(width, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, inputs: Tensor, attention_mask: Tensor, city: Tensor | None = None, asked_alone: Tensor | None = None
    ) -> Tensor:
        """inputs [B, T, 6], attention_mask [B, T], city [B], asked_alone [B] -> [B, T, H]."""
        dtype = self.norm.weight.dtype
        is_record = attention_mask != 0
        is_history = is_record & (inputs[..., CELL] != self.mask_id)
        delta, to_next, of_the_day = of_the_sequence(inputs, is_record, is_history, asked_alone, self.num_slots)
        parts = [self._look_up(name, inputs[..., self.columns[name]]) for name in self.temporal]
        parts.append(torch.log1p((delta / self.slots_per_trained_slot).to(dtype))[..., None])
        if self.location is not None:
            parts.append(self.location(inputs[..., CELL]))
        if self.record_features is not None:
            in_slots = [values / self.slots_per_trained_slot for values in (of_the_day, to_next)]
            parts.append(self.record_features(inputs, is_history, *in_slots).to(dtype))
        hidden = self.projection(self.norm(torch.cat(parts, dim=-1)))
        if self.city is not None:
            hidden = hidden + self.city(city, len(inputs))
        return self.dropout(hidden + self.is_asked((inputs[..., CELL] == self.mask_id).long()))

    def _look_up(self, name: str, index: Tensor) -> Tensor:
        """Rows of a table; slots of another length than the trained ones lie between two rows of that of slots."""
        table = self.temporal[name]
        if name != "time" or self.slots_per_trained_slot == 1:
            return table(index)
        position = (index + 0.5) / self.slots_per_trained_slot - 0.5  # middles of slots, in trained slots
        below = position.floor()
        share = (position - below)[..., None].to(table.weight.dtype)
        rows = table.num_embeddings
        return table(below.long() % rows) * (1 - share) + table((below.long() + 1) % rows) * share
