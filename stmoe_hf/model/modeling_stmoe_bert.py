"""ST-MoE-BERT: a BERT encoder with sparse experts over a window of records, and the head that gives cells.

Shapes: B rows (windows), T records of a row, Q asked-for records of a row, N asked-for records of a batch, C cells of
the grid, K candidate cells of a row, E experts, H hidden.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import MoEModelOutput
from transformers.models.bert.modeling_bert import BertEncoder, BertLayer, BertSelfAttention
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_stmoe_bert import STMoEBertConfig
from .embeddings_stmoe_bert import STMoEBertCityEmbedding, STMoEBertEmbeddings
from .experts_stmoe_bert import (
    GROUPED_EXPERTS,
    STMoEBertAddNorm,
    STMoEBertExperts,
    STMoEBertRouter,
    STMoEBertSparseMoeBlock,
)
from .heads_stmoe_bert import (
    HISTORY_WEIGHT,
    STMoEBertCellHead,
    STMoEBertGate,
    STMoEBertHistoryHead,
    STMoEBertSpread,
)
from .outputs_stmoe_bert import STMoEBertOutput
from .records import CELL, INPUT_COLUMNS, NO_LABEL


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

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for the decorator in this file; the experts are in another.
        return True

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


# A saved folder carries this code, so that it also loads, with trust_remote_code, where this package is not installed.
STMoEBertForMobility.register_for_auto_class("AutoModel")

__all__ = ["STMoEBertForMobility", "STMoEBertModel", "STMoEBertPreTrainedModel"]
