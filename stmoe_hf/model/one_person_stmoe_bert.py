"""The network for one person, in a forward that can be traced: no size or branch in it depends on what a window holds.

Shapes: T records of a window, Q asked-for records of it, K cells that are asked about, N cells of other people.
"""

import torch
from torch import Tensor, nn

from .modeling_stmoe_bert import STMoEBertForMobility
from .outputs_stmoe_bert import AskedFor
from .records import CELL


class STMoEBertForOnePerson(nn.Module):
    """`STMoEBertForMobility` for a batch of one, which gives the log-probabilities of chosen cells.

    Only while it is exported (`torch.export`) does it leave out the branches that depend on data.
    """

    def __init__(self, model: STMoEBertForMobility):
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs: Tensor,
        cells: Tensor,
        asked_alone: Tensor,
        field_cells: Tensor | None = None,
        field_counts: Tensor | None = None,
        field_poi: Tensor | None = None,
        city: Tensor | None = None,
    ) -> Tensor:
        """Log-probabilities [1, Q, K] of cells for the asked-for records of a window, in time order.

        Args:
            inputs: [1, T, 6], as `STMoEBertForMobility` takes them, of which at least one record is asked for.
            cells: [K] that are asked about.
            asked_alone: [1] whether each asked-for record is answered from the history alone.
            field_cells, field_counts, field_poi: [1, N], [1, N, F] and [1, N, P], as in the network's forward.
            city: [1] number of the city.
        """
        model, config = self.model, self.model.config
        is_record = inputs[..., CELL] != config.pad_id
        mask = is_record.long()
        hidden = model.model(inputs=inputs, attention_mask=mask, asked_alone=asked_alone, city=city).last_hidden_state
        position = (inputs[0, :, CELL] == config.mask_id).nonzero()[:, 0][None]  # [1, Q]
        torch._check(position.shape[1] >= 1)
        asked = AskedFor(hidden[:, position[0]], torch.ones_like(position, dtype=torch.bool))
        asked.alone = asked_alone
        if model.history_head is None:
            return model._row_logits(asked, 0, cells)[None]
        is_history = is_record & (inputs[..., CELL] != config.mask_id)
        has_history = is_history.any()
        asked.to_history, asked.to_others = model._log_gate(asked.states, is_history)
        history = model.history_head(inputs, hidden, position, mask)
        # Where there is no history all records stand for it, so that no tensor is empty; what comes out is not taken.
        asked.is_history, asked.history = is_history | ~has_history, torch.where(has_history, history, 0.0)
        asked.cell = inputs[..., CELL].clamp(max=config.num_cells - 1)
        asked.inputs, asked.position = torch.cat([inputs[..., :CELL], asked.cell[..., None]], dim=-1), position
        asked.field_cells, asked.field_counts, asked.field_poi = field_cells, field_counts, field_poi
        logits = model._row_logits(asked, 0, cells)
        return torch.where(has_history, logits, model._log_others(asked.states[0], cells))[None]
