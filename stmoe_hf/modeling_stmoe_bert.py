"""ST-MoE-BERT: embeddings of records, a BERT encoder with sparse experts, and a head that gives cells.

Shapes: B rows (windows), T records of a row, Q asked-for records of a row, N asked-for records of a batch, C cells of
the grid, K candidate cells of a row, E experts, H hidden.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, use_experts_implementation
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import MoEModelOutput
from transformers.models.bert.modeling_bert import BertEncoder, BertLayer, BertSelfAttention
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_stmoe_bert import INPUT_COLUMNS, STMoEBertConfig

DAY, SLOT, WEEKDAY, DAY_OFF, DELTA, CELL = range(len(INPUT_COLUMNS))
NO_LABEL = -100

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

# Start of the spread of a record's weight to the cells around it: 0.8 stay, the rest falls by e a cell.
SPREAD_STAYS = 0.8
# What `STMoEBertRecordFeatures` gives for each record, and how far "near" reaches there, in cells.
RECORD_FEATURES = 12
NEAR_RADIUS = 4


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


class STMoEBertRouter(nn.Module):
    """Chooses the experts of each record, in fp32."""

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """hidden [N, H] -> logits [N, E], weights of the chosen [N, k], indices of the chosen [N, k]."""
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            logits = F.linear(hidden.float(), self.weight.float())
            top_logits, top_index = torch.topk(logits, self.top_k, dim=-1)
            return logits, F.softmax(top_logits, dim=-1), top_index


class Permute(torch.autograd.Function):
    """Rows in another order. The gradient is the same in the inverse order: no sums, so the same in every run."""

    @staticmethod
    def forward(ctx, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


@use_experts_implementation(has_gate=False, has_bias=True)
class STMoEBertExperts(nn.Module):
    """All experts of a layer as three-dimensional weights; the forward here is the `eager` implementation."""

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.num_experts = config.num_experts
        inner = config.moe_intermediate_size
        self.up_proj = nn.Parameter(torch.empty(self.num_experts, inner, config.hidden_size))
        self.up_proj_bias = nn.Parameter(torch.empty(self.num_experts, inner))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, config.hidden_size, inner))
        self.down_proj_bias = nn.Parameter(torch.empty(self.num_experts, config.hidden_size))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        states, expert, order, inverse = _sorted_by_expert(hidden_states, top_k_index)
        # `unbind`, because the gradient of each `up_proj[expert]` would be a tensor of all experts.
        weights = (self.up_proj, self.up_proj_bias, self.down_proj, self.down_proj_bias)
        each = zip(*(weight.unbind(0) for weight in weights), strict=True)
        counts = torch.bincount(expert, minlength=self.num_experts).tolist()
        parts = [
            F.linear(self.act_fn(F.linear(part, up, up_bias)), down, down_bias)
            for part, (up, up_bias, down, down_bias) in zip(states.split(counts), each, strict=True)
        ]
        return _weighted_sum(torch.cat(parts), order, inverse, top_k_weights).to(hidden_states.dtype)


def grouped_experts(
    experts: STMoEBertExperts, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The forward of `STMoEBertExperts` as grouped products, for GPUs: no loop, and nothing waits for the device.

    Under autocast the products run in its dtype, as those of dense layers do, and the weights' gradients are fp32.
    (transformers' own `grouped_mm` runs in fp32 there.)
    """
    device = hidden_states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
    with torch.autocast(device, enabled=False):
        states, expert, order, inverse = _sorted_by_expert(hidden_states.to(dtype), top_k_index)
        is_of = (expert[:, None] == torch.arange(experts.num_experts, device=expert.device)).to(dtype)  # [N * k, E]
        ends = is_of.sum(0, dtype=torch.float32).cumsum(0).to(torch.int32)

        def linear(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            product = F.grouped_mm(states, weight.to(dtype).transpose(1, 2), offs=ends)
            return product + is_of @ bias.to(dtype)  # a product, whose gradient needs no scattered sums

        inner = experts.act_fn(linear(states, experts.up_proj, experts.up_proj_bias))
        states = linear(inner, experts.down_proj, experts.down_proj_bias)
        return _weighted_sum(states, order, inverse, top_k_weights).to(hidden_states.dtype)


GROUPED_EXPERTS = "stmoe_grouped"
ALL_EXPERTS_FUNCTIONS.register(GROUPED_EXPERTS, grouped_experts)


def _sorted_by_expert(hidden_states: Tensor, top_k_index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States [N, H] and choices [N, k] -> states [N * k, H] and experts [N * k] in the order of the experts.

    Also that order [N * k], and its inverse.
    """
    expert, order = top_k_index.flatten().sort(stable=True)
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    states = hidden_states[:, None].expand(-1, top_k_index.shape[-1], -1).flatten(0, 1)
    return Permute.apply(states, order, inverse), expert, order, inverse


def _weighted_sum(states: Tensor, order: Tensor, inverse: Tensor, top_k_weights: Tensor) -> Tensor:
    """States [N * k, H] in the order of the experts, weights [N, k] -> [N, H] sum over each record's experts."""
    states = Permute.apply(states, inverse, order).unflatten(0, top_k_weights.shape)
    return (states * top_k_weights[..., None]).sum(1)


class STMoEBertSparseMoeBlock(nn.Module):
    """Router and experts; stands where BertLayer has its first feed-forward half."""

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.router = STMoEBertRouter(config)
        self.experts = STMoEBertExperts(config)

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        _, weights, index = self.router(flat)
        return self.experts(flat, index, weights.to(flat.dtype)).reshape(hidden.shape)


class STMoEBertAddNorm(nn.Module):
    """Dropout, residual, LayerNorm; stands where BertLayer has its second feed-forward half."""

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(hidden) + residual)


class STMoEBertLayer(BertLayer):
    """A BertLayer whose feed-forward is dense or a mixture of experts, as the configuration says."""

    def __init__(self, config: STMoEBertConfig, layer_idx: int):
        super().__init__(config, layer_idx=layer_idx)
        if layer_idx in config.sparse_layers:
            self.intermediate = STMoEBertSparseMoeBlock(config)
            self.output = STMoEBertAddNorm(config)


class STMoEBertEncoder(BertEncoder):
    def __init__(self, config: STMoEBertConfig):
        nn.Module.__init__(self)
        self.config = config
        self.layer = nn.ModuleList([STMoEBertLayer(config, index) for index in range(config.num_hidden_layers)])


class STMoEBertPreTrainedModel(PreTrainedModel):
    config_class = STMoEBertConfig
    base_model_prefix = "model"
    main_input_name = "inputs"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ("STMoEBertEmbeddings", "STMoEBertLayer")
    _can_record_outputs = {  # noqa: RUF012 (the base class declares it)
        "hidden_states": STMoEBertLayer,
        "attentions": BertSelfAttention,
        "router_logits": OutputRecorder(STMoEBertRouter, index=0),
    }

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        if requested_experts is None:
            sizes = (self.config.hidden_size, self.config.moe_intermediate_size or 0)
            # The grouped product of bf16 wants rows of whole 16 bytes. On a CPU the loop is faster.
            fits_gpu = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
            requested_experts = GROUPED_EXPERTS if fits_gpu and not any(size % 8 for size in sizes) else "eager"
        return super().get_correct_experts_implementation(requested_experts)

    def _where_there_is_a_record(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 3 or inputs.shape[-1] != len(INPUT_COLUMNS):
            raise ValueError(
                f"inputs must be [rows, records, columns] with the columns {', '.join(INPUT_COLUMNS)}; these are"
                f" {list(inputs.shape)}"
            )
        return (inputs[..., CELL] != self.config.pad_id).long()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, STMoEBertRouter):
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, STMoEBertExperts):
            init.normal_(module.up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=std)
            init.zeros_(module.up_proj_bias)
            init.zeros_(module.down_proj_bias)
        elif isinstance(module, STMoEBertHistoryHead):
            module.set_to_time_kernel()
        elif isinstance(module, STMoEBertSpread):
            module.set_to_start()
        elif isinstance(module, STMoEBertCityEmbedding):
            init.zeros_(module.weight)
        elif isinstance(module, STMoEBertGate):
            init.zeros_(module.weight)
            init.constant_(module.bias, math.log(HISTORY_WEIGHT / (1 - HISTORY_WEIGHT)))


class STMoEBertModel(STMoEBertPreTrainedModel):
    """The encoder without a head: inputs [B, T, 6] -> last_hidden_state [B, T, H]."""

    def __init__(self, config: STMoEBertConfig):
        super().__init__(config)
        self.embeddings = STMoEBertEmbeddings(config)
        self.encoder = STMoEBertEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module | None:
        return self.embeddings.location

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.location = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        inputs: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        city: Tensor | None = None,
        **kwargs,
    ) -> MoEModelOutput:
        """Encode records.

        Args:
            inputs: [B, T, 6] integers, columns as in `INPUT_COLUMNS`; the cell is `mask_id` where asked for.
            attention_mask: [B, T], 1 where there is a record. By default from the padding cells of `inputs`.
            inputs_embeds: [B, T, H], in place of the embedding of `inputs`.
            city: [B] number of each row's city in `config.cities`, -1 where it is unknown. By default all are.
        """
        if inputs is None and inputs_embeds is None:
            raise ValueError("give inputs [B, T, 6] or inputs_embeds [B, T, H]")
        if inputs is not None and attention_mask is None:
            attention_mask = self._where_there_is_a_record(inputs)
        hidden = self.embeddings(inputs, attention_mask, city) if inputs_embeds is None else inputs_embeds
        if hidden.shape[1] > self.config.max_seq_length:
            raise ValueError(
                f"a row has {hidden.shape[1]} records; this model takes {self.config.max_seq_length} (max_seq_length)."
                " Shorten the history (input_seq_length) or raise max_seq_length"
            )
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden, attention_mask=attention_mask)
        return MoEModelOutput(last_hidden_state=self.encoder(hidden, attention_mask=mask, **kwargs).last_hidden_state)


class CellLogProbability(torch.autograd.Function):
    """log softmax(hidden @ weight.T + bias) at the labels, a chunk of records at a time.

    The [N, C] logits exist one chunk at a time, in both directions: backward computes a chunk again.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, chunk: int) -> Tensor:
        normaliser = hidden.new_empty(len(hidden), dtype=torch.float32)
        chosen = torch.empty_like(normaliser)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = torch.addmm(bias, hidden[part], weight.t()).float()
            chosen[part] = logits.gather(1, labels[part, None])[:, 0]
            highest = logits.amax(1)
            normaliser[part] = logits.sub_(highest[:, None]).exp_().sum(1).log_().add_(highest)
        ctx.save_for_backward(hidden, weight, bias, labels, normaliser)
        ctx.chunk = chunk
        return chosen - normaliser

    @staticmethod
    def backward(ctx, gradient: Tensor):
        hidden, weight, bias, labels, normaliser = ctx.saved_tensors
        gradient = gradient.to(hidden.dtype)
        # At the label's logit the gradient is 1 - probability, elsewhere -probability: first the ones, ...
        weighted = hidden * gradient[:, None]
        hidden_gradient = weight[labels]
        weight_gradient = torch.zeros_like(weight).index_add_(0, labels, weighted)
        bias_gradient = torch.zeros_like(bias).index_add_(0, labels, gradient)
        for start in range(0, len(hidden), ctx.chunk):  # ... then the probabilities
            part = slice(start, start + ctx.chunk)
            logits = torch.addmm(bias, hidden[part], weight.t()).float()
            probability = logits.sub_(normaliser[part, None]).exp_().to(hidden.dtype)
            hidden_gradient[part] -= probability @ weight
            weight_gradient.addmm_(probability.t(), weighted[part], alpha=-1)
            bias_gradient.addmv_(probability.t(), gradient[part], alpha=-1)
        return hidden_gradient * gradient[:, None], weight_gradient, bias_gradient, None, None


class STMoEBertCellHead(nn.Module):
    """A distribution over all cells of the grid."""

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.chunk = config.head_chunk_size
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.num_cells)

    def states(self, hidden: Tensor) -> Tensor:
        return self.norm(self.act_fn(self.transform(hidden)))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., H] -> log-probabilities [..., C]."""
        return F.log_softmax(self.decoder(self.states(hidden)).float(), dim=-1)

    def log_probability(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """hidden [N, H], labels [N] -> log-probability of each label [N]; no [N, C] tensor is kept."""
        states, weight, bias = self.states(hidden), self.decoder.weight, self.decoder.bias
        if torch.is_autocast_enabled(states.device.type):
            dtype = torch.get_autocast_dtype(states.device.type)
            states, weight, bias = states.to(dtype), weight.to(dtype), bias.to(dtype)
        return CellLogProbability.apply(states, weight, bias, labels, self.chunk)


class STMoEBertHistoryHead(nn.Module):
    """Scores every record of the person's history for every asked-for record: [B, Q, T] log-weights, summing to 1.

    A score is the time kernel, plus a network over the relation of the two records (both slots, days between, kind of
    both days), plus the product of their encoder states. The last two start at zero.
    """

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.num_slots = config.num_slots
        self.slot_decay = nn.Parameter(torch.empty(1))
        self.day_decay = nn.Parameter(torch.empty(1))
        self.other_kind_of_day = nn.Parameter(torch.empty(1))
        self.same_weekday = nn.Parameter(torch.empty(1))
        self.mask_id = config.mask_id

        # The relation of two records takes few values, so the network runs over them once a batch, not over pairs.
        self.num_days = config.num_days
        self.num_day_buckets = round(2 * math.log2(config.num_days)) + 1
        self.relation = None
        if config.history_relation_size:
            features = 2 * len(CLOCK_HARMONICS) * 2 + len(SLOT_WIDTHS) + self.num_day_buckets + KINDS_OF_DAY
            self.relation = nn.Sequential(
                nn.Linear(features, config.history_relation_size),
                nn.GELU(),
                nn.Linear(config.history_relation_size, 1),
            )
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

    def _relation_features(self) -> Tensor:
        """[slots, slots, day buckets, kinds, features] of (asked slot, record's slot, days between, kinds of day)."""
        device = self.slot_decay.device
        slots = torch.arange(self.num_slots, device=device)
        angle = 2 * math.pi * slots / self.num_slots
        clock = torch.stack([f(n * angle) for n in CLOCK_HARMONICS for f in (torch.sin, torch.cos)], dim=-1)
        apart = _circular_distance(slots[:, None] - slots[None, :], self.num_slots).float()
        near = torch.stack([torch.exp(-apart / width) for width in SLOT_WIDTHS], dim=-1)
        parts = [
            clock[:, None, None, None, :],
            clock[None, :, None, None, :],
            near[:, :, None, None, :],
            torch.eye(self.num_day_buckets, device=device)[None, None, :, None, :],
            torch.eye(KINDS_OF_DAY, device=device)[None, None, None, :, :],
        ]
        size = (self.num_slots, self.num_slots, self.num_day_buckets, KINDS_OF_DAY)
        return torch.cat([part.expand(*size, -1) for part in parts], dim=-1)

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
        q = inputs.gather(1, asked[..., None].expand(-1, -1, inputs.shape[-1]))[:, :, None, :]
        h = inputs[:, None, :, :]
        days = (q[..., DAY] - h[..., DAY]).abs()
        apart = _circular_distance(q[..., SLOT] - h[..., SLOT], self.num_slots)
        same_kind = q[..., DAY_OFF] == h[..., DAY_OFF]
        same_weekday = q[..., WEEKDAY] == h[..., WEEKDAY]
        scores = (
            -self.slot_decay.exp() * apart
            - self.day_decay.exp() * days
            + self.other_kind_of_day * ~same_kind
            + self.same_weekday * same_weekday
        )
        if self.relation is not None:
            # 0 both off, 1 both working, 2 off asked for, 3 working asked for, 4 the same weekday and kind
            kind = torch.where(same_kind, 1 - q[..., DAY_OFF], 3 - q[..., DAY_OFF])
            kind = torch.where(same_kind & same_weekday, 4, kind)
            bucket = torch.arange(self.num_days, device=days.device).clamp(min=1).log2().mul(2).round().long()
            index = (q[..., SLOT] * self.num_slots + h[..., SLOT]) * self.num_day_buckets + bucket[days]
            table = self.relation(self._relation_features().to(self.relation[0].weight.dtype))
            scores = scores + _look_up(table, index * KINDS_OF_DAY + kind)
        if self.query is not None:
            states = hidden.gather(1, asked[..., None].expand(-1, -1, hidden.shape[-1]))
            content = self.query(states) @ self.key(hidden).transpose(1, 2) / math.sqrt(self.key.out_features)
            scores = scores + content + self.key_bias(hidden).transpose(1, 2)
        is_history = (attention_mask != 0) & (inputs[..., CELL] != self.mask_id)
        has_history = is_history.any(-1)[:, None, None]
        # A row without history keeps finite scores until after the softmax, or its gradient would be nan.
        scores = scores.float().masked_fill(~is_history[:, None, :] & has_history, -math.inf)
        return F.log_softmax(scores, dim=-1).masked_fill(~has_history, -math.inf)


class STMoEBertSpread(nn.Module):
    """How the weight of a record spreads to the cells around its own: a learned kernel of the distance.

    People are seen now in one cell, now in the next, and half of their new cells lie beside old ones. The kernel sums
    to 1 over its square; what falls off the grid is shared among the cells on it.
    """

    def __init__(self, config: STMoEBertConfig):
        super().__init__()
        self.radius = config.history_spread
        self.height, self.width = config.grid_height, config.grid_width
        self.log_kernel = nn.Parameter(torch.empty(len(self._rings()[0])))

    def _rings(self) -> tuple[Tensor, Tensor]:
        """Distances of the kernel in ascending order, and for each offset [2R + 1, 2R + 1] the number of its own."""
        step = torch.arange(-self.radius, self.radius + 1, device="cpu")
        squared, ring = torch.unique(step[:, None] ** 2 + step[None, :] ** 2, return_inverse=True)
        return squared.float().sqrt(), ring

    def set_to_start(self) -> None:
        distance, ring = self._rings()
        around = torch.exp(-distance[ring]).sum() - 1
        start = math.log(1 - SPREAD_STAYS) - around.log() - distance
        start[0] = math.log(SPREAD_STAYS)
        init.copy_(self.log_kernel, start)

    def kernel(self) -> Tensor:
        """[2R + 1, 2R + 1] logarithm of the share that each offset gets."""
        square = self.log_kernel.float()[self._rings()[1].to(self.log_kernel.device)]
        return square - torch.logsumexp(square.flatten(), dim=0)

    def log_inside(self, kernel: Tensor, cell: Tensor) -> Tensor:
        """Logarithm of the share that stays on the grid, for records in `cell`."""
        total = F.pad(kernel.exp().cumsum(0).cumsum(1), (1, 0, 1, 0))
        x, y = cell % self.width, cell // self.width
        left, right = (self.radius - x).clamp(min=0), (self.width - x + self.radius).clamp(max=2 * self.radius + 1)
        top, bottom = (self.radius - y).clamp(min=0), (self.height - y + self.radius).clamp(max=2 * self.radius + 1)
        return (total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]).log()

    def between(self, to_cell: Tensor, from_cell: Tensor) -> Tensor:
        """Log-share [B, Q, T] that records in `from_cell` [B, T] give to `to_cell` [B, Q]; -inf beyond the kernel."""
        kernel = self.kernel()
        dx = to_cell[:, :, None] % self.width - from_cell[:, None, :] % self.width + self.radius
        dy = to_cell[:, :, None] // self.width - from_cell[:, None, :] // self.width + self.radius
        size = 2 * self.radius + 1
        inside = (dx >= 0) & (dx < size) & (dy >= 0) & (dy < size)
        index = torch.where(inside, dy * size + dx, size * size)
        table = F.pad(kernel.flatten(), (0, 1), value=-math.inf)
        return _look_up(table, index) - self.log_inside(kernel, from_cell)[:, None, :]

    def forward(self, maps: Tensor) -> Tensor:
        """Probabilities [B, Q, C] of the records' own cells -> of the cells that they spread to."""
        kernel = self.kernel()
        cells = torch.arange(maps.shape[-1], device=maps.device)
        maps = maps / self.log_inside(kernel, cells).exp()
        image = maps.reshape(-1, 1, self.height, self.width)
        return F.conv2d(image, kernel.exp()[None, None], padding=self.radius).reshape(maps.shape)


class STMoEBertGate(nn.Linear):
    """How much of the probability comes from the history rather than from all cells; a class for its start."""


class STMoEBertForMobility(STMoEBertPreTrainedModel):
    """ST-MoE-BERT with its head: the cell of every asked-for record.

    The probability of a cell is a mixture, by a learned gate, of the weights of the history's records in that cell
    and of a distribution over all cells (uniform without `cell_head`).
    """

    def __init__(self, config: STMoEBertConfig):
        super().__init__(config)
        self.model = STMoEBertModel(config)
        self.history_head = STMoEBertHistoryHead(config) if config.history_head else None
        self.spread = STMoEBertSpread(config) if config.history_head and config.history_spread else None
        self.cell_head = STMoEBertCellHead(config) if config.cell_head else None
        self.gate = STMoEBertGate(config.hidden_size, 1) if config.history_head else None
        self.post_init()

    def get_output_embeddings(self) -> nn.Module | None:
        return None if self.cell_head is None else self.cell_head.decoder

    @torch.no_grad()
    def add_cities(self, names: list[str]) -> None:
        """Give cities that have none a vector of their own; it starts from the mean of the known ones, at first 0."""
        known = self.config.cities or []
        cities = [*known, *dict.fromkeys(name for name in names if name not in known)]
        if cities == known:
            return
        table = STMoEBertCityEmbedding(len(cities), self.config.hidden_size, device=self.device, dtype=self.dtype)
        init.zeros_(table.weight)
        if known:
            old = self.model.embeddings.city.weight
            table.weight.copy_(torch.cat([old, old.mean(0).expand(len(cities) - len(known), -1)]))
        self.model.embeddings.city, self.config.cities = table, cities

    @can_return_tuple
    def forward(
        self,
        inputs: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        num_candidates: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_router_logits: bool | None = None,
        **kwargs,
    ) -> STMoEBertOutput:
        """Predict the cells of the asked-for records, or the loss at the labelled ones.

        Args:
            inputs: [B, T, 6] integers, columns as in `INPUT_COLUMNS`; the cell is `mask_id` where asked for.
            attention_mask: [B, T], 1 where there is a record. By default from the padding cells of `inputs`.
            labels: [B, T] cells at the asked-for records, -100 elsewhere. With labels the loss is returned, and
                logits only if `num_candidates` asks for them.
            inputs_embeds: [B, T, H], in place of the embedding of `inputs`. Without `inputs` the history head has
                nothing to score, and labelled (else all) positions are asked for.
            num_candidates: give log-probabilities of candidate cells only: of each row this many of the most probable
                cells, and all of the history's.
            num_items_in_batch: labelled records of the whole optimisation step, over accumulation and processes.
            city: among the other keywords, which go to the encoder: see `STMoEBertModel.forward`.
        """
        keep_router = self.config.output_router_logits if output_router_logits is None else output_router_logits
        if inputs is not None and attention_mask is None:
            attention_mask = self._where_there_is_a_record(inputs)
        sparse = bool(self.config.sparse_layers)
        outputs = self.model(
            inputs=inputs,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_router_logits=sparse and (keep_router or labels is not None),
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        if attention_mask is None:
            attention_mask = hidden.new_ones(hidden.shape[:2], dtype=torch.long)
        is_asked = self._asked_for(inputs, labels, attention_mask)
        position, exists = _positions(is_asked)  # [B, Q]
        states = hidden.gather(1, position[..., None].expand(-1, -1, hidden.shape[-1]))  # [B, Q, H]
        history = gate = None
        if self.history_head is not None and inputs is not None:
            history = self.history_head(inputs, hidden, position, attention_mask)
            gate = self._log_gate(states, history)

        loss = logits = candidates = log_probability = aux_loss = expert_load = None
        if labels is not None:
            row_labels = labels.gather(1, position).masked_fill(~exists, NO_LABEL)
            labelled = row_labels != NO_LABEL
            log_probability = self._log_probability(states, history, gate, inputs, row_labels, labelled)
            if num_items_in_batch is None:
                num_items_in_batch = labelled.sum()
            num_items = torch.as_tensor(num_items_in_batch, device=hidden.device).clamp(min=1)
            loss = -log_probability.sum() / num_items
            if sparse:
                row_loss, expert_load = self._balance(outputs.router_logits, attention_mask)
                # Weighted as the cross-entropy is, so that it is the same however a step is cut into batches.
                aux_loss = (row_loss * labelled.sum(-1)).sum() / num_items
                loss = loss + self.config.router_aux_loss_coef * aux_loss
        if num_candidates is not None:
            logits, candidates = self._candidate_logits(states, history, gate, inputs, exists, num_candidates)
        elif labels is None:
            logits = self._all_logits(states, history, gate, inputs)[exists]
        return STMoEBertOutput(
            loss=loss,
            logits=logits,
            candidates=candidates,
            history=None if num_candidates is None else history,
            log_probability=log_probability,
            aux_loss=aux_loss,
            expert_load=expert_load,
            router_logits=outputs.router_logits if sparse and keep_router else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _asked_for(self, inputs: Tensor | None, labels: Tensor | None, attention_mask: Tensor) -> Tensor:
        if inputs is not None:
            return (inputs[..., CELL] == self.config.mask_id) & (attention_mask != 0)
        return attention_mask != 0 if labels is None else labels != NO_LABEL

    def _log_gate(self, states: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Log-weights [B, Q] of the history and of all cells; a row without history leaves all to the latter."""
        gate = self.gate(states)[..., 0].float()
        has_history = torch.isfinite(history).any(-1)
        to_history = F.logsigmoid(gate).masked_fill(~has_history, -math.inf)
        return to_history, F.logsigmoid(-gate).masked_fill(~has_history, 0.0)

    def _log_probability(self, states, history, gate, inputs, labels, labelled) -> Tensor:
        """Log-probability [B, Q] of the labels, 0 where there is none."""
        chosen = labels[labelled]
        if self.cell_head is not None:
            log_probability = self.cell_head.log_probability(states[labelled], chosen)
        else:
            log_probability = states.new_full(chosen.shape, -math.log(self.config.num_cells), dtype=torch.float32)
        if history is not None:
            if self.spread is None:
                hit = inputs[:, None, :, CELL] == labels[..., None]
                from_history = _logsumexp(history.masked_fill(~hit, -math.inf))[labelled]
            else:
                share = self.spread.between(labels, inputs[..., CELL].clamp(max=self.config.num_cells - 1))
                from_history = _logsumexp(history + share)[labelled]
            to_history, to_all = gate[0][labelled], gate[1][labelled]
            log_probability = _logaddexp(to_history + from_history, to_all + log_probability)
        return torch.zeros_like(labelled, dtype=torch.float32).masked_scatter(labelled, log_probability)

    def _balance(self, router_logits: tuple[Tensor, ...], attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The balance loss of Switch Transformers, equations (4)-(6), per layer and row, then the mean over layers.

        Returns:
            [B] losses (perfect balance gives `num_experts_per_tok`) and [layers, E] shares of the choices.
        """
        experts, top_k = self.config.num_experts, self.config.num_experts_per_tok
        weight = (attention_mask / attention_mask.sum(-1, keepdim=True).clamp(min=1))[..., None]  # [B, T, 1]
        losses, loads = [], []
        for layer in router_logits:
            layer = layer.reshape(*attention_mask.shape, experts)
            chosen = torch.zeros_like(layer).scatter_(-1, layer.topk(top_k, dim=-1).indices, 1.0)
            load = (chosen * weight).sum(1)  # [B, E]
            losses.append(experts * (load * (layer.softmax(-1) * weight).sum(1)).sum(-1))
            loads.append(load.mean(0) / top_k)
        return torch.stack(losses).mean(0), torch.stack(loads)

    def _all_logits(self, states, history, gate, inputs) -> Tensor:
        """Log-probabilities [B, Q, C] of all cells."""
        if self.cell_head is not None:
            logits = self.cell_head(states)
        else:
            size = (*states.shape[:2], self.config.num_cells)
            logits = states.new_full(size, -math.log(self.config.num_cells), dtype=torch.float32)
        if history is None:
            return logits
        cells = inputs[..., CELL].clamp(max=self.config.num_cells - 1)
        from_history = torch.zeros_like(logits).scatter_add_(
            2, cells[:, None, :].expand(-1, history.shape[1], -1), history.exp()
        )
        if self.spread is not None:
            from_history = self.spread(from_history)
        return (gate[0].exp()[..., None] * from_history + gate[1].exp()[..., None] * logits.exp()).log()

    def _candidate_logits(self, states, history, gate, inputs, exists, num_candidates) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, Q, K] of candidate cells [B, K], row by row, so that one [Q, C] tensor exists."""
        rows = []
        for row in range(len(states)):
            row_history = None
            if history is not None:
                row_history = (history[row], inputs[row, :, CELL], gate[0][row].exp(), gate[1][row].exp())
            rows.append(self._row_candidates(states[row], row_history, exists[row], num_candidates))
        width = max((len(cells) for _, cells in rows), default=0)
        logits = torch.stack([F.pad(row, (0, width - row.shape[1]), value=-math.inf) for row, _ in rows])
        candidates = torch.stack([F.pad(cells, (0, width - len(cells)), value=-1) for _, cells in rows])
        return logits, candidates

    def _row_candidates(self, states: Tensor, history, exists: Tensor, num_candidates: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities [Q, K] and candidate cells [K] of a row.

        The spread is linear: one map, summed over the asked-for records, tells the most probable cells, and the others
        need no map. (A map of the grid for each asked-for record took two thirds of the time of prediction.)
        """
        num_cells = self.config.num_cells
        everywhere = None if self.cell_head is None else self.cell_head(states).exp()  # [Q, C]
        mass = states.new_zeros(num_cells, dtype=torch.float32)
        if history is not None:
            log_weight, own_cells, to_history, to_all = history  # [Q, T], [T], [Q], [Q]
            weight = log_weight.exp()
            cells_in_use = own_cells.clamp(max=num_cells - 1)
            mass.scatter_add_(0, cells_in_use, (weight * (to_history * exists)[:, None]).sum(0))
            if self.spread is not None:
                mass = self.spread(mass[None, None])[0, 0]
        if everywhere is not None:
            share = exists.float() if history is None else to_all * exists
            mass = mass + share @ everywhere
        cells = mass.topk(min(num_candidates, num_cells)).indices
        if history is not None:
            cells = torch.cat([cells, own_cells[torch.isfinite(log_weight).any(0)]])
        cells = cells.unique()
        probability = mass.new_full((len(states), 1), 1 / num_cells) if everywhere is None else everywhere[:, cells]
        if history is None:
            return probability.expand(-1, len(cells)).log(), cells
        if self.spread is None:
            reach = (cells[:, None] == cells_in_use).to(weight.dtype)  # [K, T]
        else:
            reach = self.spread.between(cells[None], cells_in_use[None])[0].exp()
        return (to_history[:, None] * (weight @ reach.t()) + to_all[:, None] * probability).log(), cells


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """Single numbers of a table, shaped as `index`; the gradient of `F.embedding` takes 25 times as long here."""
    return table.flatten().index_select(0, index.flatten()).view(index.shape)


def _circular_distance(difference: Tensor, period: int) -> Tensor:
    difference = difference.abs()
    return torch.minimum(difference, period - difference)


def _positions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [B, Q] of the true entries of a [B, T] mask, in order, and which of them exist."""
    counts = mask.sum(-1)
    width = int(counts.max()) if len(counts) else 0
    position = torch.argsort((~mask).to(torch.uint8), dim=-1, stable=True)[:, :width]
    return position, torch.arange(width, device=mask.device) < counts[:, None]


def _logsumexp(x: Tensor) -> Tensor:
    """logsumexp over the last dimension whose gradient is 0, not nan, where all of it is -inf."""
    dead = torch.isneginf(x).all(-1)
    safe = x.masked_fill(dead[..., None], 0.0)
    return torch.logsumexp(safe, dim=-1).masked_fill(dead, -math.inf)


def _logaddexp(a: Tensor, b: Tensor) -> Tensor:
    return _logsumexp(torch.stack([a, b], dim=-1))


__all__ = ["STMoEBertForMobility", "STMoEBertModel", "STMoEBertOutput", "STMoEBertPreTrainedModel"]
