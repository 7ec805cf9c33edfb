"""The two published networks, `MobilityBERT` and `MobilityBERTMoE`, with the inputs and outputs of ST-MoE-BERT.

Modules bear the published names, so that a state dict reads the same; what the tables' rows stand for is this
project's convention (`stmoe convert` reorders published weights).

Shapes: B rows (windows), T records of a row, Q asked-for records of a row, N asked-for records of a batch, C cells of
the grid, K candidate cells of a row, H hidden.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertModel, PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .configuration_mobility_bert import MobilityBertConfig, MobilityBertMoEConfig
from .outputs_stmoe_bert import STMoEBertOutput
from .records import CELL, DAY, DAY_OFF, DELTA, INPUT_COLUMNS, NO_LABEL, SLOT, WEEKDAY

SATURDAY = 5


class MobilityBertSelfAttention(nn.Module):
    """The attention block before the BERT: attention of several heads, Linear, residual, LayerNorm."""

    def __init__(self, config: MobilityBertConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """hidden [B, T, H], attention_mask [B, T] -> [B, T, H]."""
        query, key, value = (
            layer(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, T, H / heads]
            for layer in (self.query, self.key, self.value)
        )
        context = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=(attention_mask != 0)[:, None, None, :],
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        context = self.dropout(self.dense(context.transpose(1, 2).flatten(2)))
        return self.layer_norm(context + hidden)


class MobilityBertExpert(nn.Module):
    """One Linear and GELU."""

    def __init__(self, config: MobilityBertConfig):
        super().__init__()
        self.fc = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.fc(hidden))


class MobilityBertMixture(nn.Module):
    """The mean of all experts, weighted by the softmax of a gate: every record goes through every expert."""

    def __init__(self, config: MobilityBertConfig):
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, config.num_experts)
        self.experts = nn.ModuleList([MobilityBertExpert(config) for _ in range(config.num_experts)])

    def forward(self, hidden: Tensor) -> Tensor:
        weights = F.softmax(self.gate(hidden), dim=-1)
        mixed = torch.zeros_like(hidden)
        for expert, weight in zip(self.experts, weights.unbind(-1), strict=True):
            mixed = mixed + weight[..., None] * expert(hidden)
        return mixed


class MobilityBertPreTrainedModel(PreTrainedModel):
    """What both networks share: from records to encoder states, from states to cells and the loss."""

    config_class = MobilityBertConfig
    main_input_name = "inputs"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _no_split_modules = ["BertLayer"]  # noqa: RUF012
    has_mixture = False

    def __init__(self, config: MobilityBertConfig):
        if config.model_type != self.config_class.model_type:
            # It would be saved as the other network.
            raise TypeError(
                f"{type(self).__name__} takes a {self.config_class.__name__}, not a {type(config).__name__}"
            )
        super().__init__(config)
        self.day_embedding = nn.Embedding(config.num_days, config.day_embedding_size)
        self.time_embedding = nn.Embedding(config.num_slots, config.time_embedding_size)
        self.day_of_week_embedding = nn.Embedding(7, config.day_of_week_embedding_size)
        self.weekday_embedding = nn.Embedding(2, config.weekday_embedding_size)
        self.location_embedding = nn.Embedding(config.num_cells, config.location_embedding_size)
        tables = (self.day_embedding, self.time_embedding, self.day_of_week_embedding, self.weekday_embedding)
        width = sum(table.embedding_dim for table in (*tables, self.location_embedding)) + 1  # and the delta
        self.layer_norm = nn.LayerNorm(width)
        self.input_projection = nn.Linear(width, config.hidden_size)
        self.residual_fc = nn.Linear(width, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.self_attention = MobilityBertSelfAttention(config)
        sizes: dict[str, Any] = {
            "vocab_size": 1,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.bert_attention_heads,
            "intermediate_size": config.intermediate_size,
            "hidden_dropout_prob": config.bert_dropout,
            "attention_probs_dropout_prob": config.bert_dropout,
            "max_position_embeddings": config.max_seq_length,
            "initializer_range": config.initializer_range,
            "attn_implementation": config._attn_implementation,
        }
        self.bert = BertModel(BertConfig(**sizes), add_pooling_layer=False)
        # The BERT is given embeddings, never words: a table of words would be a parameter without a gradient.
        self.bert.embeddings.word_embeddings = None  # type: ignore[assignment]
        if self.has_mixture:
            self.moe = MobilityBertMixture(config)
        self.output_projection = nn.Linear(config.hidden_size, config.num_cells)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # torch's own start, as the published weights show; the BERT starts as transformers' BERT does.
        if isinstance(module, (nn.Linear, nn.Embedding, nn.LayerNorm)):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        return self.location_embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.output_projection

    def embed(self, inputs: Tensor) -> Tensor:
        """inputs [B, T, 6] -> [B, T, H]; a record whose cell is not known has a cell vector of zeros."""
        cell = inputs[..., CELL]
        is_known = (cell < self.config.num_cells)[..., None]
        location = self.location_embedding(cell.clamp(max=self.config.num_cells - 1)) * is_known
        if self.config.holidays_are_weekends:
            is_weekend = inputs[..., DAY_OFF]
        else:
            is_weekend = (inputs[..., WEEKDAY] >= SATURDAY).long()
        parts = [
            self.day_embedding(inputs[..., DAY]),
            self.time_embedding(inputs[..., SLOT]),
            self.day_of_week_embedding(inputs[..., WEEKDAY]),
            self.weekday_embedding(is_weekend),
            inputs[..., DELTA, None].to(location.dtype),
            location,
        ]
        features = self.layer_norm(torch.cat(parts, dim=-1))
        return self.dropout(self.input_projection(features) + self.residual_fc(features))

    def encode(self, inputs: Tensor, attention_mask: Tensor) -> Tensor:
        """inputs [B, T, 6], attention_mask [B, T] -> states [B, T, H]."""
        # A record's position counts records, so that padding on either side changes nothing.
        position_ids = (attention_mask != 0).long().cumsum(-1).sub_(1).clamp_(min=0)
        hidden = self.self_attention(self.embed(inputs), attention_mask)
        return self.bert(
            inputs_embeds=hidden, attention_mask=attention_mask, position_ids=position_ids
        ).last_hidden_state

    def cell_logits(self, states: Tensor) -> Tensor:
        """states [..., H] -> logits [..., C]."""
        return self.output_projection(self.moe(states) if self.has_mixture else states)

    @can_return_tuple
    def forward(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_candidates: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> STMoEBertOutput:
        """Predict the cells of the asked-for records, or the loss at the labelled ones.

        Args:
            inputs: [B, T, 6] integers, columns as in `INPUT_COLUMNS`; the cell is `mask_id` where asked for.
            attention_mask: [B, T], 1 where there is a record. By default from the padding cells of `inputs`.
            labels: [B, T] cells at the asked-for records, -100 elsewhere. With labels the loss is returned, and
                logits only if `num_candidates` asks for them.
            num_candidates: give log-probabilities [B, Q, K] of candidate cells only: of each row this many of the
                most probable cells, and all of the history's. A row's missing records and candidates are -inf.
            num_items_in_batch: labelled records of the whole optimisation step, over accumulation and processes.

        Returns:
            `loss`, the mean cross-entropy of the labelled records, and `log_probability` [B, Q] of their labels (0
            where there is none); `logits` [N, C] of the asked-for records in (row, time) order, as published (not
            normalised), or those of the candidates.
        """
        if inputs.dim() != 3 or inputs.shape[-1] != len(INPUT_COLUMNS):
            raise ValueError(f"inputs must be [rows, records, {len(INPUT_COLUMNS)}]; these are {list(inputs.shape)}")
        if attention_mask is None:
            attention_mask = (inputs[..., CELL] != self.config.pad_id).long()
        longest = int((attention_mask != 0).sum(-1).max()) if attention_mask.numel() else 0
        if longest > self.config.max_seq_length:
            raise ValueError(
                f"a row has {longest} records; this network takes {self.config.max_seq_length} (max_seq_length). "
                "Shorten the history (input_seq_length) or the part asked for at once (predict_seq_length)"
            )
        is_asked = (inputs[..., CELL] == self.config.mask_id) & (attention_mask != 0)
        states = self.encode(inputs, attention_mask)[is_asked]  # [N, H]

        loss = log_probability = logits = candidates = None
        if labels is not None:
            if bool(((labels != NO_LABEL) & ~is_asked).any()):
                raise ValueError(
                    "labels must be -100 where the cell is given: a label stands at a record that is not asked for"
                )
            asked_labels = labels[is_asked]
            of_labels = self._log_probability(states, asked_labels)
            if num_items_in_batch is None:
                num_items_in_batch = (asked_labels != NO_LABEL).sum()
            loss = -of_labels.sum() / torch.as_tensor(num_items_in_batch, device=states.device).clamp(min=1)
            counts = is_asked.sum(-1, keepdim=True)
            exists = torch.arange(int(counts.max()), device=counts.device) < counts  # [B, Q]
            log_probability = of_labels.new_zeros(exists.shape).masked_scatter(exists, of_labels)
        if num_candidates is not None:
            logits, candidates = self._candidate_logits(states, inputs, attention_mask, is_asked, num_candidates)
        elif labels is None:
            logits = self.cell_logits(states)
        return STMoEBertOutput(loss=loss, logits=logits, candidates=candidates, log_probability=log_probability)

    def _log_probability(self, states: Tensor, labels: Tensor) -> Tensor:
        """states [N, H], labels [N] -> log-probability of each label [N], 0 where there is none.

        The [N, C] logits exist a chunk at a time: backward computes a chunk again.
        """
        size = self.config.head_chunk_size
        chunks = [
            checkpoint(self._chunk_log_probability, *chunk, use_reentrant=False, preserve_rng_state=False)
            for chunk in zip(states.split(size), labels.split(size), strict=True)
        ]
        return torch.cat(chunks)

    def _chunk_log_probability(self, states: Tensor, labels: Tensor) -> Tensor:
        logits = self.cell_logits(states).float()
        return -F.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="none")

    def _candidate_logits(
        self, states: Tensor, inputs: Tensor, attention_mask: Tensor, is_asked: Tensor, num_candidates: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, Q, K] of candidate cells [B, K], row by row, so that one [Q, C] tensor exists."""
        is_history = (inputs[..., CELL] < self.config.num_cells) & (attention_mask != 0)
        rows = []
        for row, row_states in enumerate(states.split(is_asked.sum(-1).tolist())):
            log_probability = F.log_softmax(self.cell_logits(row_states).float(), dim=-1)
            best = log_probability.exp().sum(0).topk(min(num_candidates, self.config.num_cells)).indices
            cells = torch.cat([best, inputs[row, is_history[row], CELL]]).unique()
            rows.append((log_probability[:, cells], cells))
        num_asked = max((len(part) for part, _ in rows), default=0)
        width = max((len(cells) for _, cells in rows), default=0)
        logits = torch.stack(
            [F.pad(part, (0, width - part.shape[1], 0, num_asked - len(part)), value=-math.inf) for part, _ in rows]
        )
        return logits, torch.stack([F.pad(cells, (0, width - len(cells)), value=-1) for _, cells in rows])


class MobilityBERT(MobilityBertPreTrainedModel):
    """The published network without the mixture."""


class MobilityBERTMoE(MobilityBertPreTrainedModel):
    """The published network with the mixture of all experts between the BERT and the output."""

    config_class = MobilityBertMoEConfig
    has_mixture = True


# A saved folder carries this code, so that it also loads, with trust_remote_code, where this package is not installed.
MobilityBERT.register_for_auto_class("AutoModel")
MobilityBERTMoE.register_for_auto_class("AutoModel")

__all__ = ["MobilityBERT", "MobilityBERTMoE", "MobilityBertPreTrainedModel"]
