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
from transformers.models.bert.modeling_bert import BertSelfAttention
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention_stmoe_bert import as_numbers_to_add, keys_of_the_alone
from .cell_head_stmoe_bert import STMoEBertCellHead
from .configuration_stmoe_bert import STMoEBertConfig
from .embeddings_stmoe_bert import STMoEBertCityEmbedding, STMoEBertEmbeddings
from .experts_stmoe_bert import (
    EXPERTS_BY_DEVICE,
    STMoEBertEncoder,
    STMoEBertExperts,
    STMoEBertLayer,
    STMoEBertRouter,
    balance,
)
from .field_stmoe_bert import STMoEBertField
from .heads_stmoe_bert import (
    HISTORY_WEIGHT,
    STMoEBertFar,
    STMoEBertGate,
    STMoEBertHistoryHead,
    STMoEBertSpread,
    logaddexp,
    logsumexp,
    positions,
)
from .outputs_stmoe_bert import AskedFor, STMoEBertOutput, padded_candidates
from .records import CELL, INPUT_COLUMNS, NO_LABEL

LEAST = 1e-30  # probability, so that its logarithm is finite


class STMoEBertPreTrainedModel(PreTrainedModel):
    config_class = STMoEBertConfig
    base_model_prefix = "model"
    main_input_name = "inputs"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
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
        # Which is fastest is known in the forward: a model may stay on the CPU of a machine with a GPU.
        return super().get_correct_experts_implementation(requested_experts or EXPERTS_BY_DEVICE)

    def _where_there_is_a_record(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 3 or inputs.shape[-1] != len(INPUT_COLUMNS):
            raise ValueError(
                f"inputs must be [rows, records, columns] with the columns {', '.join(INPUT_COLUMNS)}; these are"
                f" {list(inputs.shape)}"
            )
        return (inputs[..., CELL] != self.config.pad_id).long()

    def _rows_asked_alone(
        self, asked_alone: Tensor | bool | None, inputs: Tensor | None, inputs_embeds: Tensor | None
    ) -> Tensor | None:
        """[B] which rows are asked alone; None: no row is."""
        if asked_alone is None or asked_alone is False:
            return None
        if inputs is None or inputs_embeds is not None:
            raise ValueError("asked_alone needs inputs, which say what is asked for, and no inputs_embeds")
        return torch.as_tensor(asked_alone, device=inputs.device).expand(len(inputs))

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
        elif isinstance(module, (STMoEBertSpread, STMoEBertFar, STMoEBertField)):
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
        asked_alone: Tensor | bool | None = None,
        **kwargs,
    ) -> MoEModelOutput:
        """Encode records, in time order.

        Args:
            inputs: [B, T, 6] integers, columns as in `INPUT_COLUMNS`; the cell is `mask_id` where asked for.
            attention_mask: [B, T], 1 where there is a record. By default from the padding cells of `inputs`.
            inputs_embeds: [B, T, H], in place of the embedding of `inputs`.
            city: [B] number of each row's city in `config.cities`, -1 where it is unknown. By default all are.
            asked_alone: [B] or one for all: whether each asked-for record is encoded as if it were the only one, from
                the history alone. Its state then depends on nothing else that is asked, and the history's on nothing
                that is. By default asked-for records see each other.
        """
        if inputs is None and inputs_embeds is None:
            raise ValueError("give inputs [B, T, 6] or inputs_embeds [B, T, H]")
        if inputs is not None and attention_mask is None:
            attention_mask = self._where_there_is_a_record(inputs)
        alone = self._rows_asked_alone(asked_alone, inputs, inputs_embeds)
        hidden = inputs_embeds
        if hidden is None:
            hidden = self.embeddings(inputs, attention_mask, city, alone)
        if hidden.shape[1] > self.config.max_seq_length:
            raise ValueError(
                f"a row has {hidden.shape[1]} records; this model takes {self.config.max_seq_length} (max_seq_length)."
                " Shorten the history (input_seq_length) or raise max_seq_length"
            )
        keys = attention_mask
        if alone is not None:
            is_asked = inputs[..., CELL] == self.config.mask_id
            keys = keys_of_the_alone(is_asked, attention_mask, alone, hidden.dtype)
        if self.config._attn_implementation == "sdpa" and hidden.device.type == "cpu":
            keys = as_numbers_to_add(keys, hidden.dtype)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden, attention_mask=keys)
        return MoEModelOutput(last_hidden_state=self.encoder(hidden, attention_mask=mask, **kwargs).last_hidden_state)


class STMoEBertForMobility(STMoEBertPreTrainedModel):
    """ST-MoE-BERT with its head: the cell of every asked-for record.

    The probability of a cell is a mixture, by a learned gate, of the weights of the history's records in and around
    that cell, and of the others: a distribution over all cells (`cell_head`), over the distance from the history
    (`history_far`), or all cells alike.
    """

    def __init__(self, config: STMoEBertConfig):
        super().__init__(config)
        self.model = STMoEBertModel(config)
        self.history_head = STMoEBertHistoryHead(config) if config.history_head else None
        self.spread = STMoEBertSpread(config) if config.history_head and config.history_spread else None
        self.far = STMoEBertFar(config) if config.history_far else None
        self.field = STMoEBertField(config) if config.city_field else None
        self.cell_head = STMoEBertCellHead(config) if config.cell_head else None
        has_gate = config.history_head and not config.city_field  # the field has its own
        self.gate = STMoEBertGate(config.hidden_size, 1) if has_gate else None
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
        asked_alone: Tensor | bool | None = None,
        field_cells: Tensor | None = None,
        field_counts: Tensor | None = None,
        field_poi: Tensor | None = None,
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
            asked_alone: [B] or one for all: answer each asked-for record from the history alone, so that an answer
                depends on nothing else that is asked; see `STMoEBertModel.forward`.
            field_cells: [B, N] cells that other people of the city were seen in, ascending, -1 behind the last; for a
                network with `city_field`. Without them it knows the person alone.
            field_counts: [B, N, F] what is counted of each, in the order of `FIELD_COUNTS`.
            field_poi: [B, N, P] their points of interest, in the order of `POI_COUNTS`; heeded with `city_field_poi`.
            city: among the other keywords, which go to the encoder.
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
            asked_alone=asked_alone,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        if attention_mask is None:
            attention_mask = hidden.new_ones(hidden.shape[:2], dtype=torch.long)
        is_asked = self._is_asked_for(inputs, labels, attention_mask)
        position, exists = positions(is_asked)  # [B, Q]
        asked = AskedFor(hidden.gather(1, position[..., None].expand(-1, -1, hidden.shape[-1])), exists)
        asked.alone = self._rows_asked_alone(asked_alone, inputs, inputs_embeds)
        if self.history_head is not None and inputs is not None:
            asked.cell = inputs[..., CELL].clamp(max=self.config.num_cells - 1)
            asked.inputs, asked.position = inputs, position
            asked.is_history = (attention_mask != 0) & (inputs[..., CELL] != self.config.mask_id)
            asked.history = self.history_head(inputs, hidden, position, attention_mask)
            asked.to_history, asked.to_others = self._log_gate(asked.states, asked.is_history)
            if self.field is not None and field_cells is not None:
                asked.field_cells, asked.field_counts, asked.field_poi = field_cells, field_counts, field_poi

        loss = logits = candidates = log_probability = aux_loss = expert_load = None
        if labels is not None:
            row_labels = labels.gather(1, position).masked_fill(~exists, NO_LABEL)
            labelled = row_labels != NO_LABEL
            if self.field is not None and asked.history is not None:
                log_probability, logits, candidates = self._by_rows(asked, row_labels, labelled, num_candidates)
            else:
                log_probability = self._log_probability(asked, row_labels, labelled)
            if num_items_in_batch is None:
                num_items_in_batch = labelled.sum()
            num_items = torch.as_tensor(num_items_in_batch, device=hidden.device).clamp(min=1)
            loss = -log_probability.sum() / num_items
            if sparse:
                row_loss, expert_load = balance(outputs.router_logits, attention_mask, self.config.num_experts_per_tok)
                # Weighted as the cross-entropy is, so that it is the same however a step is cut into batches.
                aux_loss = (row_loss * labelled.sum(-1)).sum() / num_items
                loss = loss + self.config.router_aux_loss_coef * aux_loss
        if num_candidates is not None and candidates is None:
            logits, candidates = self._candidate_logits(asked, num_candidates)
        elif labels is None:
            everywhere = torch.arange(self.config.num_cells, device=hidden.device)
            rows = [self._row_logits(asked, row, everywhere)[exists[row]] for row in range(len(hidden))]
            logits = torch.cat(rows) if rows else hidden.new_zeros(0, self.config.num_cells)
        return STMoEBertOutput(
            loss=loss,
            logits=logits,
            candidates=candidates,
            history=None if num_candidates is None else asked.history,
            log_probability=log_probability,
            aux_loss=aux_loss,
            expert_load=expert_load,
            router_logits=outputs.router_logits if sparse and keep_router else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _is_asked_for(self, inputs: Tensor | None, labels: Tensor | None, attention_mask: Tensor) -> Tensor:
        if inputs is not None:
            return (inputs[..., CELL] == self.config.mask_id) & (attention_mask != 0)
        return attention_mask != 0 if labels is None else labels != NO_LABEL

    def _log_gate(self, states: Tensor, is_history: Tensor) -> tuple[Tensor, Tensor]:
        """Log-weights [B, Q] of the history and of the others; a row without history leaves all to the latter."""
        has_history = is_history.any(-1, keepdim=True).expand(states.shape[:2])
        if self.gate is None:
            nothing = torch.zeros_like(has_history, dtype=torch.float32)
            return nothing.masked_fill(~has_history, -math.inf), nothing.masked_fill(has_history, -math.inf)
        gate = self.gate(states)[..., 0].float()
        to_history = F.logsigmoid(gate).masked_fill(~has_history, -math.inf)
        return to_history, F.logsigmoid(-gate).masked_fill(~has_history, 0.0)

    def _log_probability(self, asked: AskedFor, labels: Tensor, labelled: Tensor) -> Tensor:
        """Log-probability [B, Q] of the labels [B, Q], 0 where there is none."""
        chosen = labels[labelled]
        if self.cell_head is not None:
            others = self.cell_head.log_probability(asked.states[labelled], chosen)
        else:
            others = asked.states.new_full(chosen.shape, -math.log(self.config.num_cells), dtype=torch.float32)
        if asked.history is None:
            return torch.zeros_like(labelled, dtype=torch.float32).masked_scatter(labelled, others)
        if self.spread is None:
            hit = asked.cell[:, None, :] == labels[..., None]
            from_history = logsumexp(asked.history.masked_fill(~hit, -math.inf))[labelled]
        else:
            from_history = logsumexp(asked.history + self.spread.between(labels, asked.cell))[labelled]
        if self.far is not None:
            share = self.far.log_share(self.far.log_rings(asked.states), labels, asked.cell)
            far = logsumexp(asked.history + share)[labelled]
            has_history = torch.isfinite(asked.to_history[labelled])
            others = torch.where(has_history, far, others)
        log_probability = logaddexp(asked.to_history[labelled] + from_history, asked.to_others[labelled] + others)
        return torch.zeros_like(labelled, dtype=torch.float32).masked_scatter(labelled, log_probability)

    def _by_rows(
        self, asked: AskedFor, labels: Tensor, labelled: Tensor, num_candidates: int | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`_log_probability`, and `_candidate_logits` if asked for, from the cells of one row after another."""
        told, of_candidates = [], []
        for row, of_row in enumerate(labelled):
            label = labels[row].masked_fill(~of_row, 0)
            candidates = label[:0] if num_candidates is None else self._row_candidates(asked, row, num_candidates)
            cells = torch.cat([candidates, label]).unique()
            logits = self._row_logits(asked, row, cells)
            chosen = logits.gather(1, torch.searchsorted(cells, label)[:, None])[:, 0]
            told.append(chosen.masked_fill(~of_row, 0.0))
            of_candidates.append((logits[:, torch.searchsorted(cells, candidates)], candidates))
        log_probability = torch.stack(told) if told else torch.zeros_like(labelled, dtype=torch.float32)
        padded = (None, None) if num_candidates is None else padded_candidates(asked, of_candidates)
        return log_probability, *padded

    def _candidate_logits(self, asked: AskedFor, num_candidates: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, Q, K] of candidate cells [B, K], row by row, so that one [Q, K] tensor exists."""
        rows = []
        for row in range(len(asked.states)):
            cells = self._row_candidates(asked, row, num_candidates)
            rows.append((self._row_logits(asked, row, cells), cells))
        return padded_candidates(asked, rows)

    def _row_places(self, asked: AskedFor, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """The places [P] of a row's history, the logarithm [P] of what they spread inside the grid, and their weights
        [Q, P], made once."""
        if row not in asked.places:
            records = asked.is_history[row].nonzero()[:, 0]
            places, index = asked.cell[row].index_select(0, records).unique(return_inverse=True)
            weight = asked.history[row].index_select(1, records).exp()  # [Q, records of the history]
            weight = weight.new_zeros(weight.shape[0], places.shape[0]).scatter_add(1, index.expand_as(weight), weight)
            inside = torch.zeros_like(places, dtype=weight.dtype)
            if self.spread is not None:
                inside = self.spread.log_inside(self.spread.kernel(), places)
            asked.places[row] = places, inside, weight
        return asked.places[row]

    def _row_candidates(self, asked: AskedFor, row: int, num_candidates: int) -> Tensor:
        """Candidate cells [K] of a row in ascending order: the most probable ones, and all of the history's."""
        num_cells, exists = self.config.num_cells, asked.exists[row].float()
        cells = torch.arange(min(num_candidates, num_cells), device=exists.device)
        places = cells[:0]
        mass = torch.zeros_like(cells, dtype=torch.float32)
        if asked.history is not None:
            places, inside, weight = self._row_places(asked, row)
            of_place = (asked.to_history[row].exp() * exists) @ weight
            if asked.alone is not None and asked.alone[row]:
                # What is asked has no say in what is answered: the candidates go by the visits of the history.
                visited = torch.searchsorted(places, asked.cell[row, asked.is_history[row]])
                of_place = torch.bincount(visited, minlength=len(places)).to(of_place.dtype)
            if len(places):
                cells, mass = places, of_place
            if self.spread is not None and len(places):
                around, share = self.spread.around(places, inside)
                cells, index = around.flatten().unique(return_inverse=True)
                mass = of_place.new_zeros(len(cells)).index_add(0, index, (share * of_place[:, None]).flatten())
        if self.cell_head is not None:
            share = exists if asked.history is None else asked.to_others[row].exp() * exists
            everywhere = share @ self.cell_head(asked.states[row]).exp()
            mass = everywhere.index_add(0, cells, mass)
            cells = torch.arange(num_cells, device=cells.device)
        best = cells[mass.topk(min(num_candidates, len(cells))).indices]
        if self.field is not None and len(places):
            of_row = self.field.row_of(asked, row, places, inside, weight)
            best = torch.cat([best, self.field.likeliest(of_row, num_candidates // 2)])
        return torch.cat([best, places]).unique()

    def _log_others(self, states: Tensor, cells: Tensor) -> Tensor:
        """Log-probabilities [Q, K] of cells [K] by the states [Q, H] of a row alone: from the head, or all alike."""
        if self.cell_head is not None:
            return self.cell_head(states)[:, cells]
        size = (states.shape[0], cells.shape[0])
        return states.new_full(size, -math.log(self.config.num_cells), dtype=torch.float32)

    def _row_logits(self, asked: AskedFor, row: int, cells: Tensor) -> Tensor:
        """Log-probabilities [Q, K] of cells [K] for the asked-for records of a row."""
        states = asked.states[row]
        if asked.history is None:
            return self._log_others(states, cells)
        places, inside, weight = self._row_places(asked, row)
        has_history = torch.compiler.is_exporting() or len(places) > 0  # what is exported sees to it
        if self.field is not None and has_history:
            of_row = self.field.row_of(asked, row, places, inside, weight)
            return self.field(of_row, cells, self.spread, self.far).clamp(min=LEAST).log()
        if self.far is not None and has_history:
            others = self.far.shares(weight, self.far.log_rings(states), cells, places)
        else:
            others = self._log_others(states, cells).exp()
        if self.spread is None:
            reach = (cells[:, None] == places).to(weight.dtype)  # [K, P]
        else:
            reach = self.spread.between(cells[None], places[None], inside[None])[0].exp()
        to_history, to_others = asked.to_history[row].exp()[:, None], asked.to_others[row].exp()[:, None]
        return (to_history * (weight @ reach.t()) + to_others * others).log()


# A saved folder carries this code, so that it also loads, with trust_remote_code, where this package is not installed.
STMoEBertForMobility.register_for_auto_class("AutoModel")

__all__ = ["STMoEBertForMobility", "STMoEBertModel", "STMoEBertPreTrainedModel"]
