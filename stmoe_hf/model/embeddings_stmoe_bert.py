"""From the columns of a record to its vector: when it was, and what its cell is to the person.

Shapes: B rows (windows), T records of a row, Q asked-for records of a row, N asked-for records of a batch, C cells of
the grid, K candidate cells of a row, E experts, H hidden.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_stmoe_bert import STMoEBertConfig
from .records import CELL, DAY, DAY_OFF, DELTA, SLOT, WEEKDAY

# What `STMoEBertRecordFeatures` gives for each record, and how far "near" reaches there, in cells.
RECORD_FEATURES = 12
NEAR_RADIUS = 4


class STMoEBertRecordFeatures(nn.Module):
    """What a cell is to the person, for each record of the history: how often, when and how long ago it was visited.

    Cell ids mean other places in another city; these numbers mean the same everywhere. They are counted in the row
    itself, over its history, on maps of the grid.
    """

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.height, self.width, self.num_cells = config.grid_height, config.grid_width, config.num_cells
        self.num_days, self.num_slots, self.cell_km = config.num_days, config.num_slots, config.cell_km
        self.mask_id = config.mask_id

    def forward(self, inputs: Tensor, attention_mask: Tensor) -> Tensor:
        """inputs [B, T, 6], attention_mask [B, T] -> [B, T, RECORD_FEATURES] fp32, mostly 0 at asked-for records."""
        is_record = attention_mask != 0
        is_history = is_record & (inputs[..., CELL] != self.mask_id)
        history = is_history.float()
        day, slot = inputs[..., DAY], inputs[..., SLOT]
        cell = inputs[..., CELL].clamp(max=self.num_cells - 1)

        def count(what: Tensor) -> Tensor:
            """Sum of `what` [B, T] over the history, for each cell [B, C]."""
            return what.new_zeros(len(what), self.num_cells).scatter_add_(1, cell, what * history)

        night, office_hours = (
            slot < self.num_slots // 4,
            (slot >= self.num_slots * 3 // 8) & (slot < self.num_slots * 3 // 4),
        )
        visits = count(history)
        near = self._near(visits)
        at_night = count(night.float())
        last = torch.full_like(visits, -1.0).scatter_reduce_(1, cell, day.float() * history - (1 - history), "amax")
        now = (day * is_history).amax(1, keepdim=True).float() + 1
        home = (self._near(at_night) + 1e-3 * near).argmax(1, keepdim=True)
        own = visits.gather(1, cell).clamp(min=1)
        total = history.sum(1, keepdim=True).clamp(min=1)
        apart = torch.hypot(
            (cell % self.width - home % self.width).float(), (cell // self.width - home // self.width).float()
        )
        of_the_day = (
            history.new_zeros(len(inputs), self.num_days).scatter_add_(1, day, is_record.float()).gather(1, day)
        )
        next_delta = F.pad(inputs[:, 1:, DELTA], (0, 1)).float()
        features = torch.stack(
            [
                own.log() / 4,
                near.gather(1, cell).log1p() / 4,
                count(self._first_of_day(day, cell, is_history)).gather(1, cell).log1p() / 3,
                (now - last.gather(1, cell)).clamp(min=1).log() / 3,
                at_night.gather(1, cell) / own,
                count(office_hours.float()).gather(1, cell) / own,
                count(inputs[..., DAY_OFF].float()).gather(1, cell) / own,
                (own / total).log() / 4,
                (apart * self.cell_km).log1p() / 2,
                (total / 1000).expand_as(own),
            ],
            dim=-1,
        )
        always = torch.stack([of_the_day.log1p() / 3, next_delta.log1p() / 3], dim=-1)
        return torch.cat([features * history[..., None], always * is_record[..., None]], dim=-1)

    def _near(self, visits: Tensor) -> Tensor:
        """Visits [B, C] around each cell, weighted by the proximity e^(-distance / 2)."""
        step = torch.arange(-NEAR_RADIUS, NEAR_RADIUS + 1, device=visits.device, dtype=visits.dtype)
        kernel = torch.exp(-0.5 * torch.hypot(step[:, None], step[None, :]))[None, None]
        maps = visits.reshape(-1, 1, self.height, self.width)
        return F.conv2d(maps, kernel, padding=NEAR_RADIUS).reshape(visits.shape)

    def _first_of_day(self, day: Tensor, cell: Tensor, is_history: Tensor) -> Tensor:
        """1 at one record of each (day, cell) of the history, 0 elsewhere."""
        key = torch.where(is_history, day * self.num_cells + cell, -1)
        key, order = key.sort(dim=-1, stable=True)
        first = F.pad((key[:, 1:] != key[:, :-1]).float(), (1, 0), value=1.0)
        return torch.zeros_like(first).scatter_(1, order, first)


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
            "time": (config.num_slots, config.time_embedding_size),
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
            width += RECORD_FEATURES
        self.city = STMoEBertCityEmbedding(len(config.cities), config.hidden_size) if config.cities else None
        self.is_asked = nn.Embedding(2, config.hidden_size)
        self.mask_id = config.mask_id
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.projection = nn.Linear(width, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inputs: Tensor, attention_mask: Tensor, city: Tensor | None = None) -> Tensor:
        parts = [table(inputs[..., self.columns[name]]) for name, table in self.temporal.items()]
        parts.append(torch.log1p(inputs[..., DELTA, None].to(self.norm.weight.dtype)))
        if self.location is not None:
            parts.append(self.location(inputs[..., CELL]))
        if self.record_features is not None:
            parts.append(self.record_features(inputs, attention_mask).to(self.norm.weight.dtype))
        hidden = self.projection(self.norm(torch.cat(parts, dim=-1)))
        if self.city is not None:
            hidden = hidden + self.city(city, len(inputs))
        return self.dropout(hidden + self.is_asked((inputs[..., CELL] == self.mask_id).long()))
