"""Whom a record may see: masks of attention.

Shapes: B rows, T records of a row.
"""

import torch
from torch import Tensor

UNSEEN = -1e30  # finite in bf16 too, so that who sees nobody has no nan


def keys_of_the_alone(is_asked: Tensor, attention_mask: Tensor, alone: Tensor, dtype: torch.dtype) -> Tensor:
    """Attention mask [B, T] without the asked-for records of rows that are asked alone.

    Where such a row has no history, each of its records sees itself: then it is [B, 1, T, T], 0 where one is seen.

    Args:
        is_asked, attention_mask: [B, T].
        alone: [B] which rows are asked alone.
        dtype: of the numbers of the larger mask.
    """
    keys = (attention_mask != 0) & ~(alone[:, None] & is_asked)
    nothing = ~keys.any(1)
    if not torch.compiler.is_exporting() and not bool(nothing.any()):
        return keys.long()
    seen = keys[:, None, :] | (nothing[:, None, None] & torch.eye(keys.shape[1], dtype=torch.bool, device=keys.device))
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def as_numbers_to_add(keys: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The keys [B, T] that records may see as a view [B, 1, T, T] of [B, T] numbers, for the attention of a CPU.

    Of true and false torch would make T times as many numbers, which take as long as the attention itself. What needs
    no mask, or has one for each record already, stays as it is.
    """
    if keys is None or keys.dim() != 2 or torch.compiler.is_compiling() or bool((keys != 0).all()):
        return keys
    numbers = torch.zeros(keys.shape, dtype=dtype).masked_fill(keys == 0, max(UNSEEN, torch.finfo(dtype).min))
    return numbers[:, None, None, :].expand(-1, -1, keys.shape[1], -1)
