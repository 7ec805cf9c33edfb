"""The encoder whose feed-forwards are sparse mixtures of experts: router, experts, add & norm, layer.

Shapes: B rows (windows), T records of a row, Q asked-for records of a row, N asked-for records of a batch, C cells of
the grid, K candidate cells of a row, E experts, H hidden.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, use_experts_implementation
from transformers.models.bert.modeling_bert import BertEncoder, BertLayer

from .configuration_stmoe_bert import STMoEBertConfig


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


class ExpertsInTurn(torch.autograd.Function):
    """The weighted sum of each record's experts, one expert after another; the products are in `dtype`.

    For backward only the products of `up` are kept; what else lies between states and sum is computed again.
    """

    @staticmethod
    def forward(ctx, states, index, weights, up, up_bias, down, down_bias, act_fn, dtype, keep):
        expert, order, inverse = _order_of_experts(index)
        counts = torch.bincount(expert, minlength=len(up)).tolist()
        rows = states.to(dtype).index_select(0, order // index.shape[1])
        products = rows.new_empty(len(rows) if keep else 0, up.shape[1])
        parts = []
        with torch.autocast(states.device.type, enabled=False):
            for e, part in enumerate(_slices(counts)):
                out = products[part] if keep else None
                product = torch.addmm(up_bias[e].to(dtype), rows[part], up[e].to(dtype).t(), out=out)
                parts.append(F.linear(act_fn(product), down[e].to(dtype), down_bias[e].to(dtype)))
        ctx.save_for_backward(states, weights, up, down, down_bias, order, inverse, products)
        ctx.counts, ctx.act_fn = counts, act_fn
        return _weighted_sum(torch.cat(parts), order, inverse, weights).to(states.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        with torch.autocast(gradient.device.type, enabled=False):
            return ExpertsInTurn._gradients(ctx, gradient)

    @staticmethod
    def _gradients(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weights, up, down, down_bias, order, inverse, products = ctx.saved_tensors
        dtype, record = products.dtype, order // weights.shape[1]
        weight = weights.flatten()[order, None].to(dtype)
        of_rows = products.new_empty(len(record), states.shape[1])
        of_weights = torch.empty_like(weight[:, 0])
        trains = ctx.needs_input_grad[3]
        of_up, of_down = (torch.empty_like(each) if trains else None for each in (up, down))
        of_up_bias, of_down_bias = (each.new_empty(each.shape[:2]) if trains else None for each in (up, down))
        for e, part in enumerate(_slices(ctx.counts)):
            of_result = gradient.index_select(0, record[part]).to(dtype)
            with torch.enable_grad():
                product = products[part].detach().requires_grad_()
                active = ctx.act_fn(product)
            of_active = of_result @ down[e].to(dtype)
            of_weights[part] = (active.detach() * of_active).sum(1) + of_result @ down_bias[e].to(dtype)
            (of_product,) = torch.autograd.grad(active, product, of_active.mul_(weight[part]))
            torch.mm(of_product, up[e].to(dtype), out=of_rows[part])
            if trains:
                of_result.mul_(weight[part])
                _product(of_result.t(), active.detach(), of_down[e])
                _product(of_product.t(), states.index_select(0, record[part]).to(dtype), of_up[e])
                of_up_bias[e], of_down_bias[e] = of_product.sum(0), of_result.sum(0)
        of_states = of_rows.index_select(0, inverse).unflatten(0, weights.shape).sum(1).to(states.dtype)
        of_weights = of_weights.index_select(0, inverse).view_as(weights).to(weights.dtype)
        return of_states, None, of_weights, of_up, of_up_bias, of_down, of_down_bias, None, None, None


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
        return experts_in_turn(self, hidden_states, top_k_index, top_k_weights)


def experts_in_turn(
    experts: STMoEBertExperts, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The forward of `STMoEBertExperts` as a loop over the experts, for CPUs."""
    weights = (experts.up_proj, experts.up_proj_bias, experts.down_proj, experts.down_proj_bias)
    device = hidden_states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
    keep = torch.is_grad_enabled()
    return ExpertsInTurn.apply(hidden_states, top_k_index, top_k_weights, *weights, experts.act_fn, dtype, keep)


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


def every_expert(
    experts: STMoEBertExperts, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The forward of `STMoEBertExperts` for export: every expert sees every record, and those not chosen weigh 0."""
    weights = (experts.up_proj, experts.up_proj_bias, experts.down_proj, experts.down_proj_bias)
    total = torch.zeros_like(hidden_states)
    for number, (up, up_bias, down, down_bias) in enumerate(zip(*(w.unbind(0) for w in weights), strict=True)):
        share = (top_k_weights * (top_k_index == number)).sum(-1, keepdim=True)
        total = total + share * F.linear(experts.act_fn(F.linear(hidden_states, up, up_bias)), down, down_bias)
    return total


def experts_by_device(
    experts: STMoEBertExperts, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The forward of `STMoEBertExperts` where no implementation was asked for."""
    is_grouped = experts_implementation_on(hidden_states.device, experts.config) == GROUPED_EXPERTS
    implementation = grouped_experts if is_grouped else experts_in_turn
    return implementation(experts, hidden_states, top_k_index, top_k_weights)


EXPERTS_BY_DEVICE, GROUPED_EXPERTS, EVERY_EXPERT = "stmoe_by_device", "stmoe_grouped", "stmoe_every"
ALL_EXPERTS_FUNCTIONS.register(EXPERTS_BY_DEVICE, experts_by_device)
ALL_EXPERTS_FUNCTIONS.register(GROUPED_EXPERTS, grouped_experts)
ALL_EXPERTS_FUNCTIONS.register(EVERY_EXPERT, every_expert)


def experts_implementation_on(device: torch.device, config: STMoEBertConfig) -> str:
    """The implementation that the experts run in on a device: the one asked for, else the fastest there."""
    if config._experts_implementation != EXPERTS_BY_DEVICE:
        return config._experts_implementation
    # The grouped product of bf16 wants rows of whole 16 bytes; on a CPU the loop is faster.
    in_whole_rows = not any(size % 8 for size in (config.hidden_size, config.moe_intermediate_size))
    has_grouped = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return GROUPED_EXPERTS if has_grouped and in_whole_rows else "eager"


def _sorted_by_expert(hidden_states: Tensor, top_k_index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States [N, H] and choices [N, k] -> states [N * k, H] and experts [N * k] in the order of the experts.

    Also that order [N * k], and its inverse.
    """
    expert, order, inverse = _order_of_experts(top_k_index)
    states = hidden_states[:, None].expand(-1, top_k_index.shape[-1], -1).flatten(0, 1)
    return Permute.apply(states, order, inverse), expert, order, inverse


def _order_of_experts(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choices [N, k] -> experts [N * k] in their order, that order [N * k], and its inverse."""
    expert, order = index.flatten().sort(stable=True)
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return expert, order, inverse


def _weighted_sum(states: Tensor, order: Tensor, inverse: Tensor, top_k_weights: Tensor) -> Tensor:
    """States [N * k, H] in the order of the experts, weights [N, k] -> [N, H] sum over each record's experts."""
    states = Permute.apply(states, inverse, order).unflatten(0, top_k_weights.shape)
    return (states * top_k_weights[..., None]).sum(1)


def _slices(counts: list[int]) -> Iterator[slice]:
    """The rows of each expert among rows in the order of the experts."""
    ends = itertools.accumulate(counts)
    return (slice(end - count, end) for count, end in zip(counts, ends, strict=True))


def _product(left: Tensor, right: Tensor, result: Tensor) -> None:
    """Write left @ right into `result`, of any dtype."""
    if left.dtype == result.dtype:
        torch.mm(left, right, out=result)
    else:
        result.copy_(left @ right)


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

    def forward(self, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        if hidden_states.numel():
            return super().forward(hidden_states, *args, **kwargs)
        # Heads of nothing have no shape: an empty batch goes past the attention.
        return self.output(self.intermediate(hidden_states), hidden_states)


class STMoEBertEncoder(BertEncoder):
    def __init__(self, config: STMoEBertConfig):
        nn.Module.__init__(self)
        self.config = config
        self.layer = nn.ModuleList([STMoEBertLayer(config, index) for index in range(config.num_hidden_layers)])


def balance(router_logits: tuple[Tensor, ...], attention_mask: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The balance loss of Switch Transformers, equations (4)-(6), per layer and row, then the mean over layers.

    Args:
        router_logits: [B * T, E] of each sparse layer.
        attention_mask: [B, T].
        top_k: experts that a record is sent to.

    Returns:
        [B] losses (perfect balance gives `top_k`) and [layers, E] shares of the choices.
    """
    experts = router_logits[0].shape[-1]
    weight = (attention_mask / attention_mask.sum(-1, keepdim=True).clamp(min=1))[..., None]  # [B, T, 1]
    losses, loads = [], []
    for layer in router_logits:
        layer = layer.reshape(*attention_mask.shape, experts)
        chosen = torch.zeros_like(layer).scatter_(-1, layer.topk(top_k, dim=-1).indices, 1.0)
        load = (chosen * weight).sum(1)  # [B, E]
        losses.append(experts * (load * (layer.softmax(-1) * weight).sum(1)).sum(-1))
        loads.append(load.mean(0) / top_k)
    return torch.stack(losses).mean(0), torch.stack(loads)
