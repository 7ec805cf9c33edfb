"""Routers kept from collapsing: what all records have in common serves to balance the experts, and nothing else.

The hidden states of records are alike: in a new network 98 % of their norm is one vector that all of them share. So a
step of Adam, which moves every weight by the learning rate, moves the routers' logits of all records together, by far
more than records differ: nearly all go to one pair of experts, after the next step to another, and a short training
ends wherever it stands. The balance loss answers a step too late, whatever its weight.

So the part of a router's weights along the shared vector is not learned. It is an offset of each expert's logits, set
such that the experts share the records evenly (as the bias of DeepSeek-V3, arXiv 2408.15664, but solved and not
stepped towards): after every step by the records of the step, and by some windows without dropout before the first
step, after each of the first ones, in which the shared vector itself turns, and at the end of every epoch. Nothing is
added to the network: a saved model is what it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback

from ..model.experts_stmoe_bert import STMoEBertRouter
from ..model.processing_stmoe_bert import MobilityProcessor

PART = 0.5  # of the way to even experts that a step goes: one step's windows are not all windows
SWEEPS = 2  # over the experts, each of which is set while the others stay
FIRST_STEPS = 10
WINDOWS, AT_A_TIME, PASSES = 16, 4, 2  # without dropout; a layer reads what the experts of the one before make


class RouterBalance(TrainerCallback):
    """Sets the part of the routers' weights that is common to all records; frozen routers stay as they are.

    Args:
        model: with routers, or none.
        windows: of the training, by some of which the experts are shared evenly.
        processor: of the windows.
        add_up: the sum of a tensor over all processes.
        gather: the rows of a tensor of all processes; rows of NaN are none.
    """

    def __init__(
        self,
        model: nn.Module,
        windows: Dataset,
        processor: MobilityProcessor,
        add_up: Callable[[Tensor], Tensor] = lambda sums: sums,
        gather: Callable[[Tensor], Tensor] = lambda rows: rows,
    ):
        self.model, self.windows, self.processor = model, windows, processor
        self._add_up, self._gather = add_up, gather
        self.routers = [
            module
            for module in model.modules()
            if isinstance(module, STMoEBertRouter)
            and module.weight.requires_grad
            and module.top_k < len(module.weight)
        ]
        self._listening = False
        self._read: dict[int, tuple[Tensor, Tensor]] = {}  # router -> states [N, H] and logits [N, E], the last
        self._batches: list[tuple[Tensor, Tensor]] = []  # of a step: sums [routers, H + 1], logits [n, routers, E]
        for number, router in enumerate(self.routers):
            router.register_forward_hook(self._listener(number))

    def _listener(self, number: int) -> Callable[[nn.Module, tuple, tuple], None]:
        def listen(_: nn.Module, inputs: tuple, outputs: tuple) -> None:
            if self._listening:
                self._read[number] = inputs[0].detach(), outputs[0].detach()

        return listen

    @contextlib.contextmanager
    def listening(self, is_record: Tensor) -> Iterator[None]:
        """Keep what the routers read and answer in a forward pass, where `is_record` [B, T] is not 0."""
        self._listening = True
        try:
            yield
        finally:
            self._listening = False
        read, self._read = [self._read[number] for number in sorted(self._read)], {}
        counts = is_record.flatten() != 0
        if read and all(len(states) == len(counts) for states, _ in read):
            sums = [torch.cat([states[counts].float().sum(0), counts.sum()[None].float()]) for states, _ in read]
            self._batches.append((torch.stack(sums), torch.stack([logits[counts] for _, logits in read], dim=1)))

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.balance_by_windows()

    def on_optimizer_step(self, args, state, control, **kwargs):
        if self._batches:
            sums = self._add_up(torch.stack([sums for sums, _ in self._batches]).sum(0))
            self._set_offsets(sums, self._gather(torch.cat([logits for _, logits in self._batches])), PART)
            self._batches = []

    def on_step_end(self, args, state, control, **kwargs):
        end_of_epoch = state.epoch is not None and state.epoch % 1 == 0
        if state.global_step <= FIRST_STEPS or end_of_epoch or state.global_step == state.max_steps:
            self.balance_by_windows()

    @torch.no_grad()
    def balance_by_windows(self) -> None:
        """Share the records of some windows evenly; the same in every process, whatever their number."""
        if not self.routers:
            return
        size, was_training = len(self.windows), self.model.training  # type: ignore[arg-type]
        chosen = np.linspace(0, size - 1, min(size, WINDOWS)).astype(int)
        device = self.routers[0].weight.device
        self.model.eval()
        for _ in range(PASSES):
            for first in range(0, len(chosen), AT_A_TIME):
                batch = self.processor.pad([self.windows[int(window)] for window in chosen[first : first + AT_A_TIME]])
                with self.listening(batch["attention_mask"].to(device)):
                    self.model(**{name: values.to(device) for name, values in batch.items()})
            batches, self._batches = self._batches, []
            sums = torch.stack([sums for sums, _ in batches]).sum(0)
            self._set_offsets(sums, torch.cat([logits for _, logits in batches]), 1.0)
        self.model.train(was_training)

    @torch.no_grad()
    def _set_offsets(self, sums: Tensor, logits: Tensor, part: float) -> None:
        """Let the routers' mean logits be what they were, plus a part of what would make the experts even.

        Args:
            sums: [routers, H + 1], of what they read, and the number of records.
            logits: [N, routers, E], what they answered.
            part: of the way.
        """
        logits = logits[~logits.isnan().any(-1).any(-1)].transpose(0, 1)  # [routers, N, E]
        if not logits.shape[1]:
            return
        for router, of_router, answered in zip(self.routers, sums, logits, strict=True):
            common = of_router[:-1] / of_router[-1].clamp(min=1)
            offset = answered.mean(0) + part * even_offsets(answered, router.top_k)
            weight: Any = router.weight
            rows = slice(None)
            if hasattr(weight, "to_local"):  # FSDP has some rows here, the others elsewhere
                first = weight.device_mesh.get_local_rank() * -(-len(weight) // weight.device_mesh.size())
                weight, rows = weight.to_local(), slice(first, first + len(weight.to_local()))
            along = (offset[rows] - weight.float() @ common) / (common @ common).clamp(min=torch.finfo().tiny)
            weight.add_(torch.outer(along, common).to(weight.dtype))


def even_offsets(logits: Tensor, top_k: int) -> Tensor:
    """What to add to the logits [N, E] of each expert so that each is among the `top_k` of about as many records.

    Expert after expert: the quantile of how far each record's logit lies above the last that would be chosen without
    it. The offsets [E] have the mean 0, which changes no choice.
    """
    records, experts = logits.shape
    offsets = logits.new_zeros(experts)
    left_out = max(1, round(records * (1 - top_k / experts)))  # records that do not choose an expert
    for _ in range(SWEEPS):
        for expert in range(experts):
            others = logits + offsets
            others[:, expert] = -torch.inf
            margin = logits[:, expert] - others.topk(top_k, dim=-1).values[:, -1]
            # Between two records: at one of them, rounding would decide where it goes.
            below, above = (margin.kthvalue(min(rank, records)).values for rank in (left_out, left_out + 1))
            offsets[expert] = -(below + above) / 2
    return offsets - offsets.mean()
