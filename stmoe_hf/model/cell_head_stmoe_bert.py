"""From encoder states to a distribution over all cells of a grid.

Shapes: N asked-for records of a batch, C cells of the grid, H hidden.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from .configuration_stmoe_bert import STMoEBertConfig

# Cells of a block of logits: their part for a thousand records fits the cache of a CPU.
CELLS_AT_ONCE = 2000


class CellLogProbability(torch.autograd.Function):
    """log softmax(hidden @ weight.T + bias) at the labels, a chunk of records and a block of cells at a time.

    Of the [N, C] logits only such a part exists at a time, in both directions: backward computes it again.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, chunk: int) -> Tensor:
        normaliser = hidden.new_full((len(hidden),), -torch.inf, dtype=torch.float32)
        chosen = torch.zeros_like(normaliser)
        for part, cells, logits in _parts_of_logits(hidden, weight, bias, chunk):
            label = labels[part] - cells.start
            is_here = (label >= 0) & (label < logits.shape[1])
            chosen[part] += logits.gather(1, label.where(is_here, 0)[:, None])[:, 0].where(is_here, 0)
            highest = logits.amax(1)
            of_part = logits.sub_(highest[:, None]).exp_().sum(1).log_().add_(highest)
            normaliser[part] = torch.logaddexp(normaliser[part], of_part)
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
        for part, cells, logits in _parts_of_logits(hidden, weight, bias, ctx.chunk):  # ... then the probabilities
            probability = logits.sub_(normaliser[part, None]).exp_().to(hidden.dtype)
            hidden_gradient[part] -= probability @ weight[cells]
            weight_gradient[cells].addmm_(probability.t(), weighted[part], alpha=-1)
            bias_gradient[cells].addmv_(probability.t(), gradient[part], alpha=-1)
        return hidden_gradient * gradient[:, None], weight_gradient, bias_gradient, None, None


def _parts_of_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor, chunk: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """A slice of the records, one of the cells, and their logits in fp32, which the next part overwrites."""
    # Memory that a CPU writes once more is in its cache; a GPU would wait for the many small products.
    block = CELLS_AT_ONCE if hidden.device.type == "cpu" else len(weight)
    memory = hidden.new_empty(min(chunk, len(hidden)) * min(block, len(weight)))
    for first, start in itertools.product(range(0, len(hidden), chunk), range(0, len(weight), block)):
        part, cells = slice(first, first + chunk), slice(start, start + block)
        states, of_cells = hidden[part], weight[cells]
        logits = memory[: len(states) * len(of_cells)].view(len(states), len(of_cells))
        torch.addmm(bias[cells], states, of_cells.t(), out=logits)
        yield part, cells, logits.float()


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
        states = self.states(hidden)
        weight: Tensor = self.decoder.weight
        bias: Tensor = self.decoder.bias
        if torch.is_autocast_enabled(states.device.type):
            dtype = torch.get_autocast_dtype(states.device.type)
            states, weight, bias = states.to(dtype), weight.to(dtype), bias.to(dtype)
        return CellLogProbability.apply(states, weight, bias, labels, self.chunk)
