"""From encoder states to cells: weights of the history's records, their spread, and what lies far from them.

Shapes: B rows (windows), T records of a row, Q asked-for records of a row, K candidate cells of
a row, E experts, H hidden.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_stmoe_bert import STMoEBertConfig
from .distances_stmoe_bert import RING_KM, between_distances, distances, quarter_disks, ring_of_square
from .embeddings_stmoe_bert import find_places
from .records import CELL, DAY, DAY_OFF, SLOT, WEEKDAY

# Start of the history head: the time-kernel frequency. A record's weight falls by e every 1.5 slots and every 100
# days, to 15 % between a working day and a day off, and rises by half on the same weekday.
KERNEL_SLOTS = 1.5
KERNEL_DAYS = 100.0
KERNEL_OTHER_KIND_OF_DAY = 0.15
KERNEL_SAME_WEEKDAY = 1.5
HISTORY_WEIGHT = 0.98
# What the relation network of the history head sees: harmonics of the clock, widths of closeness in slots, and five
# kinds of (asked-for day, record's day).
CLOCK_HARMONICS = (1, 2, 4)
SLOT_WIDTHS = (0.5, 1.5, 4.0, 12.0)
KINDS_OF_DAY = 5
FARTHEST_DAYS = 1024  # days between two records beyond which they are all alike
# How likely each ring of RING_KM, and what lies beyond, is at the start: a new place is mostly near an old one.
RING_START = (0.3, 0.13, 0.12, 0.11, 0.11, 0.08, 0.06, 0.04, 0.03, 0.02)
# Start of the spread of a record's weight to the cells around it: 0.8 stay, the rest falls by e a cell.
SPREAD_STAYS = 0.8


class STMoEBertHistoryHead(nn.Module):
    """Scores every record of the person's history for every asked-for record: [B, Q, T] log-weights, summing to 1.

    A score is the time kernel, plus a network over the relation of the two records (both slots, days between, kind of
    both days), plus the product of their encoder states. The last two start at zero.
    """

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        # The tables below are over trained slots; slots of another length look up the one that their middle lies in.
        self.num_slots, self.trained_num_slots = config.num_slots, config.trained_num_slots
        self.slots_per_trained_slot = config.slots_per_trained_slot
        self.slot_decay = nn.Parameter(torch.empty(1))
        self.day_decay = nn.Parameter(torch.empty(1))
        self.other_kind_of_day = nn.Parameter(torch.empty(1))
        self.same_weekday = nn.Parameter(torch.empty(1))
        self.mask_id = config.mask_id

        # The relation of two records takes few values, so the network runs over them once a batch, not over pairs.
        self.num_day_buckets = round(2 * math.log2(config.trained_num_days)) + 1
        self.relation = None
        if config.history_relation_size:
            features = 2 * len(CLOCK_HARMONICS) * 2 + len(SLOT_WIDTHS) + self.num_day_buckets + KINDS_OF_DAY
            self.relation = nn.Sequential(
                nn.Linear(features, config.history_relation_size),
                nn.GELU(),
                nn.Linear(config.history_relation_size, 1),
            )
        # The table of `_relation_table`, behind the weights and the precision that it was made with.
        self._made: tuple[list[Tensor], torch.dtype | None, Tensor | None] = [], None, None
        self.query = self.key = self.key_bias = None
        if config.history_content_size:
            self.query = nn.Linear(config.hidden_size, config.history_content_size)
            self.key = nn.Linear(config.hidden_size, config.history_content_size)
            self.key_bias = nn.Linear(config.hidden_size, 1)

    def set_to_time_kernel(self) -> None:
        init.constant_(self.slot_decay, math.log(1 / KERNEL_SLOTS))
        init.constant_(self.day_decay, math.log(1 / KERNEL_DAYS))
        init.constant_(self.other_kind_of_day, math.log(KERNEL_OTHER_KIND_OF_DAY))
        init.constant_(self.same_weekday, math.log(KERNEL_SAME_WEEKDAY))
        if self.relation is not None:
            init.zeros_(self.relation[-1].weight)
            init.zeros_(self.relation[-1].bias)
        if self.query is not None:
            init.zeros_(self.query.weight)
            init.zeros_(self.query.bias)
            init.zeros_(self.key_bias.weight)
            init.zeros_(self.key_bias.bias)

    def _relation_table(self) -> Tensor:
        """What the relation of two records scores: [slots * slots * day buckets * kinds of day].

        By the asked slot, the record's slot (trained slots), the days between and the kinds of day. In prediction the
        weights stay as they are, and the table is made once.
        """
        assert self.relation is not None
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or self.slot_decay.device.type != "cpu":
            return self._new_relation_table()
        # There are ways to change weights that leave no trace but their values; to compare these takes no time.
        weights = [self.slot_decay, *self.relation.parameters()]
        precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        made, of_precision, table = self._made
        same = len(made) == len(weights) and of_precision == precision and all(map(torch.equal, made, weights))
        if table is None or not same:
            table = self._new_relation_table()
            self._made = [weight.detach().clone() for weight in weights], precision, table
        return table

    def _new_relation_table(self) -> Tensor:
        assert self.relation is not None
        device, dtype = self.slot_decay.device, self.slot_decay.dtype
        slots = torch.arange(self.trained_num_slots, device=device)
        angle = 2 * math.pi * slots / self.trained_num_slots
        clock = torch.stack([f(n * angle) for n in CLOCK_HARMONICS for f in (torch.sin, torch.cos)], dim=-1)
        apart = _circular_distance(slots[:, None] - slots[None, :], self.trained_num_slots).float()
        near = torch.stack([torch.exp(-apart / width) for width in SLOT_WIDTHS], dim=-1)
        square = (self.trained_num_slots, self.trained_num_slots, -1)
        of_slots = torch.cat([clock[:, None].expand(square), clock[None].expand(square), near], dim=-1).flatten(0, 1)
        of_days = torch.eye(self.num_day_buckets + KINDS_OF_DAY + 1, device=device)[:, :-1]  # at last there is none
        # The first layer gives a sum over parts of what it sees: it is asked for each by itself, not for all that they
        # combine to. Flat, as a quantised layer takes rows; its weight has another dtype.
        width = of_slots.shape[-1], of_days.shape[-1]
        of_slots = self.relation[0](F.pad(of_slots, (0, width[1])).to(dtype))
        of_days = self.relation[0](F.pad(of_days, (width[0], 0)).to(dtype))
        bucket, kind, none = of_days.split([self.num_day_buckets, KINDS_OF_DAY, 1])
        of_days = (bucket[:, None] + (kind - 2 * none)).flatten(0, 1)
        first = (of_slots[:, None] + of_days).flatten(0, 1)
        table = self.relation[1:](first).float().view(len(of_slots), len(of_days))
        if self.slots_per_trained_slot == 1:
            table = table + self._of_slots_apart(apart).view(-1, 1)
        return table.flatten()

    def _of_slots_apart(self, apart: Tensor) -> Tensor:
        return -self.slot_decay.exp() * apart / self.slots_per_trained_slot

    def _trained_slot(self, slot: Tensor) -> Tensor:
        if self.slots_per_trained_slot == 1:
            return slot
        return ((slot + 0.5) / self.slots_per_trained_slot).long()

    def forward(self, inputs: Tensor, hidden: Tensor, asked: Tensor, attention_mask: Tensor) -> Tensor:
        """Log-weights of the history.

        Args:
            inputs: [B, T, 6].
            hidden: [B, T, H] encoder states.
            asked: [B, Q] positions of the asked-for records (any position where a row has fewer).
            attention_mask: [B, T].

        Returns:
            [B, Q, T] fp32; -inf at what is no history, and all over rows without history.
        """
        if not asked.numel():
            return hidden.new_empty(*asked.shape, inputs.shape[1], dtype=torch.float32)
        q = inputs.gather(1, asked[..., None].expand(-1, -1, inputs.shape[-1]))
        is_history = (attention_mask != 0) & (inputs[..., CELL] != self.mask_id)
        has_history = is_history.any(-1)[:, None, None]
        which, days = self._days(q)
        scores, kind = self._of_days(days, inputs)
        if self.key_bias is not None:
            scores = scores + self.key_bias(hidden).transpose(1, 2)
        # A row without history keeps finite scores until after the softmax, or its gradient would be nan.
        scores = scores.float().masked_fill(~is_history[:, None, :] & has_history, -math.inf)
        pairs = [which, scores, kind, q, inputs]
        if self.query is not None:
            states = hidden.gather(1, asked[..., None].expand(-1, -1, hidden.shape[-1]))
            pairs += [self.query(states).float() / math.sqrt(self.key.out_features), self.key(hidden).float()]
        table = None if self.relation is None else self._relation_table()
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or len(inputs) == 1:
            log_weights = self._log_weights(table, *pairs)
        else:
            # Row by row, so that a row stays near the processor: a prediction takes 8 to 12 % less time.
            log_weights = hidden.new_empty(*asked.shape, inputs.shape[1], dtype=torch.float32)
            for row in range(len(inputs)):
                log_weights[row] = self._log_weights(table, *(part[row : row + 1] for part in pairs))[0]
        if not torch.compiler.is_compiling() and bool(has_history.all()):
            return log_weights
        return log_weights.masked_fill(~has_history, -math.inf)

    def _log_weights(
        self,
        table: Tensor | None,
        which: Tensor,
        scores: Tensor,
        kind: Tensor,
        asked: Tensor,
        inputs: Tensor,
        queries: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> Tensor:
        """Log-weights [B, Q, T] by `_days`, `_of_days`, asked-for records [B, Q, 6] and all records [B, T, 6]."""
        scores = _rows(scores, which)  # [B, Q, T], to which all else is added in place
        if table is not None:
            of_slot = self._trained_slot(asked[..., SLOT]) * (len(table) // self.trained_num_slots)
            scores += _look_up(table, _rows(kind, which).add_(of_slot[..., None].to(kind.dtype)))
        if table is None or self.slots_per_trained_slot != 1:  # else it is in the table
            scores += self._of_slots(asked, inputs)
        if queries is not None and keys is not None:
            scores = scores.baddbmm_(queries, keys.transpose(1, 2))
        return F.log_softmax(scores, dim=-1)

    def _days(self, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Of asked-for records [B, Q, 6]: [B, Q] which of the row's asked-for days each is of, [B, D] these days.

        A day is told by its number, whether it is off, and its weekday, in one number.
        """
        day = (asked[..., DAY] * 2 + asked[..., DAY_OFF]) * 7 + asked[..., WEEKDAY]
        return find_places(day, torch.ones_like(day, dtype=torch.bool))

    def _of_days(self, days: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Asked-for days [B, D] of `_days`, all records [B, T, 6] -> what is alike for all slots of a day.

        Returns:
            [B, D, T] scores, and [B, D, T] where the relation's table tells of the record's slot and both days, in
            its part for one asked-for slot.
        """
        day, h = days[:, :, None], inputs[:, None, :, :]
        day_off, weekday = day // 7 % 2, day % 7
        apart = (day // 14 - h[..., DAY]).abs()
        same_kind, same_weekday = day_off == h[..., DAY_OFF], weekday == h[..., WEEKDAY]
        scores = -self.day_decay.exp() * apart + self.other_kind_of_day * ~same_kind + self.same_weekday * same_weekday
        # 0 both off, 1 both working, 2 off asked for, 3 working asked for, 4 the same weekday and kind
        kind = torch.where(same_kind, 1 - day_off, 3 - day_off)
        kind = torch.where(same_kind & same_weekday, 4, kind)
        far = torch.arange(FARTHEST_DAYS, device=apart.device).clamp(min=1).log2().mul(2).round().long()
        bucket = far.clamp(max=self.num_day_buckets - 1)[apart.clamp(max=FARTHEST_DAYS - 1)]
        of_slot = self._trained_slot(h[..., SLOT])
        return scores, ((of_slot * self.num_day_buckets + bucket) * KINDS_OF_DAY + kind).to(torch.int32)

    def _of_slots(self, asked: Tensor, inputs: Tensor) -> Tensor:
        """Asked-for records [B, Q, 6], all records [B, T, 6] -> scores [B, Q, T] of how near their slots are."""
        slots = torch.arange(self.num_slots, device=inputs.device)
        apart = _circular_distance(slots[:, None] - inputs[:, None, :, SLOT], self.num_slots)  # [B, slots, T]
        return _rows(self._of_slots_apart(apart), asked[..., SLOT])


class STMoEBertSpread(nn.Module):
    """How the weight of a record spreads to the cells around its own: a learned kernel of the distance.

    People are seen now in one cell, now in the next, and half of their new cells lie beside old ones. The kernel sums
    to 1 over its square; what falls off the grid is shared among the cells on it. For cells of another size than the
    trained ones its logarithm is read between the trained distances.
    """

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.trained_radius = config.history_spread
        self.unit = config.cell_km / config.trained_cell_km  # trained cells a cell
        self.radius = max(1, math.ceil(self.trained_radius / self.unit - 1e-9))
        self.height, self.width = config.grid_height, config.grid_width
        self.log_kernel = nn.Parameter(torch.empty(len(distances(self.trained_radius)[0])))

    def set_to_start(self) -> None:
        distance, ring = distances(self.trained_radius)
        around = torch.exp(-distance[ring]).sum() - 1
        start = math.log(1 - SPREAD_STAYS) - around.log() - distance
        start[0] = math.log(SPREAD_STAYS)
        init.copy_(self.log_kernel, start)

    def kernel(self) -> Tensor:
        """[2R + 1, 2R + 1] logarithm of the share that each offset gets."""
        log_kernel = self.log_kernel.float()
        if self.unit == 1:
            square = log_kernel[distances(self.trained_radius)[1].to(log_kernel.device)]
        else:
            parts = between_distances(self.trained_radius, self.radius, self.unit)
            above, share = (part.to(log_kernel.device) for part in parts)
            square = torch.lerp(log_kernel[above - 1], log_kernel[above], share)
        return square - torch.logsumexp(square.flatten(), dim=0)

    def log_inside(self, kernel: Tensor, cell: Tensor) -> Tensor:
        """Logarithm of the share that stays on the grid, for records in `cell`."""
        total = F.pad(kernel.exp().cumsum(0).cumsum(1), (1, 0, 1, 0))
        x, y = cell % self.width, cell // self.width
        left, right = (self.radius - x).clamp(min=0), (self.width - x + self.radius).clamp(max=2 * self.radius + 1)
        top, bottom = (self.radius - y).clamp(min=0), (self.height - y + self.radius).clamp(max=2 * self.radius + 1)
        return (total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]).log()

    def between(self, to_cell: Tensor, from_cell: Tensor, inside: Tensor | None = None) -> Tensor:
        """Log-share [B, Q, T] that records in `from_cell` [B, T] give to `to_cell` [B, Q]; -inf beyond the kernel.

        `inside` is the `log_inside` of `from_cell`, where it is known already.
        """
        kernel = self.kernel()
        rim = self.radius + 1  # where all lie that are beyond the kernel
        dx, dy = (
            (to[:, :, None].int() - of[:, None, :].int()).clamp_(-rim, rim).add_(rim)
            for to, of in (
                (to_cell % self.width, from_cell % self.width),
                (to_cell // self.width, from_cell // self.width),
            )
        )
        table = F.pad(kernel, (1, 1, 1, 1), value=-math.inf)
        inside = self.log_inside(kernel, from_cell) if inside is None else inside
        return _look_up(table, dy.mul_(2 * rim + 1).add_(dx)) - inside[:, None, :]

    def around(self, cell: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """The cells [P, S] that places `cell` [P] spread to, and the share of each; off the grid: cell 0, share 0.

        `inside` [P] is the `log_inside` of `cell`.
        """
        step = torch.arange(-self.radius, self.radius + 1, device=cell.device)
        x = (cell % self.width)[:, None, None] + step
        y = (cell // self.width)[:, None, None] + step[:, None]
        on_grid = ((x >= 0) & (x < self.width)) & ((y >= 0) & (y < self.height))
        share = (self.kernel() - inside[:, None, None]).exp() * on_grid
        return ((y * self.width + x) * on_grid).flatten(1), share.flatten(1)


class STMoEBertFar(nn.Module):
    """Where people go who go to no place of their history: how many kilometres from where they would have been.

    The distance falls into a ring around a record of the history (drawn by its weight), with a probability that the
    asked-for record's state tells; within a ring all cells of the grid are alike. So it needs no table of cells, and
    kilometres mean the same on any grid.
    """

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.height, self.width, self.cell_km = config.grid_height, config.grid_width, config.cell_km
        self.rings = nn.Linear(config.hidden_size, len(RING_KM) + 1)

    def set_to_start(self) -> None:
        init.zeros_(self.rings.weight)
        init.copy_(self.rings.bias, torch.tensor(RING_START).log())

    def log_rings(self, states: Tensor) -> Tensor:
        """States [..., H] of asked-for records -> logarithm [..., R] of the probability of each ring."""
        return F.log_softmax(self.rings(states).float(), dim=-1)

    def ring(self, to_cell: Tensor, from_cell: Tensor) -> Tensor:
        """Ring [..., Q, T] around `from_cell` [..., T] that `to_cell` [..., Q] lies in; R for the very cell."""
        dx = to_cell[..., :, None] % self.width - from_cell[..., None, :] % self.width
        dy = to_cell[..., :, None] // self.width - from_cell[..., None, :] // self.width
        table = ring_of_square(self.cell_km).to(dx.device)
        return _look_up(table, (dx * dx + dy * dy).clamp(max=len(table) - 1))

    def cells_in_rings(self, cell: Tensor) -> Tensor:
        """How many cells [..., R] of the grid lie in each ring around `cell` [...]; the last ring is the rest."""
        x, y = cell % self.width, cell // self.width
        to_edge = torch.stack([self.width - 1 - x, self.height - 1 - y, x, y], dim=-1)[..., None]  # [..., 4, 1]
        radius, first, table = (part.to(cell.device) for part in quarter_disks(self.cell_km))
        # Four quarters, each with one of its two axes: together everything around the cell but the cell.
        along, across = torch.minimum(to_edge, radius), torch.minimum(to_edge.roll(-1, dims=-2), radius)
        within = _look_up(table, first + along * (radius + 1) + across).sum(-2)  # [..., R - 1]
        within = F.pad(within, (0, 1), value=self.width * self.height - 1)
        return within.diff(dim=-1, prepend=torch.zeros_like(x)[..., None])

    def log_share(self, log_rings: Tensor, to_cell: Tensor, from_cell: Tensor) -> Tensor:
        """Log-share [B, Q, T] that records in `from_cell` [B, T] give to `to_cell` [B, Q], by rings [B, Q, R]."""
        counts = self.cells_in_rings(from_cell).float()  # [B, T, R]
        ring = self.ring(to_cell, from_cell)  # [B, Q, T]
        # What would fall into rings that have no cell is shared among the others.
        possible = (log_rings.exp() @ (counts > 0).float().transpose(1, 2)).clamp(min=1e-9).log()
        of_ring = F.pad(log_rings, (0, 1), value=-math.inf).gather(2, ring)
        size = F.pad(counts, (0, 1), value=1.0).gather(2, ring.transpose(1, 2)).transpose(1, 2)
        return of_ring - size.clamp(min=1).log() - possible

    def shares(self, weight: Tensor, log_rings: Tensor, to_cell: Tensor, from_cell: Tensor) -> Tensor:
        """Probabilities [Q, K] of cells `to_cell` [K] of one row, by weights [Q, P] of places `from_cell` [P]."""
        counts, rings = self.cells_in_rings(from_cell).float(), log_rings.exp()
        weight = weight / (rings @ (counts > 0).float().t()).clamp(min=1e-9)
        ring = self.ring(from_cell, to_cell)  # [P, K]
        share = counts.clamp(min=1).reciprocal()
        result = weight.new_zeros(weight.shape[0], to_cell.shape[0])
        for number in range(rings.shape[1]):  # one [P, K] tensor at a time
            in_ring = (ring == number) * share[:, number, None]
            result.addmm_(weight * rings[:, number, None], in_ring)
        return result


class STMoEBertGate(nn.Linear):
    """How much of the probability comes from the history rather than from all cells; a class for its start."""


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows [B, Q, T] of values [B, D, T], by their numbers [B, Q]."""
    first = torch.arange(len(values), device=index.device)[:, None] * values.shape[1]
    return values.flatten(0, 1).index_select(0, (first + index).flatten()).unflatten(0, index.shape)


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """Single numbers of a table, shaped as `index`; the gradient of `F.embedding` takes 25 times as long here."""
    return table.flatten().index_select(0, index.flatten()).view(index.shape)


def _circular_distance(difference: Tensor, period: int) -> Tensor:
    difference = difference.abs()
    return torch.minimum(difference, period - difference)


def positions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [B, Q] of the true entries of a [B, T] mask, in order, and which of them exist."""
    counts = mask.sum(-1)
    width = int(counts.max()) if len(counts) else 0
    position = torch.argsort((~mask).to(torch.uint8), dim=-1, stable=True)[:, :width]
    return position, torch.arange(width, device=mask.device) < counts[:, None]


def logsumexp(x: Tensor) -> Tensor:
    """logsumexp over the last dimension whose gradient is 0, not nan, where all of it is -inf."""
    dead = torch.isneginf(x).all(-1)
    safe = x.masked_fill(dead[..., None], 0.0)
    return torch.logsumexp(safe, dim=-1).masked_fill(dead, -math.inf)


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    return logsumexp(torch.stack([a, b], dim=-1))
