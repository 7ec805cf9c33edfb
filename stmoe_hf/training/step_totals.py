"""What is summed over the steps of a run: the same however often it is logged, and however often it is broken off."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

logger = logging.getLogger(__name__)
COLLAPSED = 0.1  # a layer that uses fewer than so many experts beyond those of one record has collapsed


class DivergedError(ValueError):
    """The loss of a step is no number."""


def experts_in_use(load: Tensor) -> Tensor:
    """How many experts are in use, by the shares [..., E] of each: the exponential of their entropy, [...]."""
    return torch.special.entr(load.float()).sum(-1).exp()


class StepTotals(TrainerCallback, ExportableState):
    """Loss and load of the experts in every step, read from the device when they are logged or saved.

    The load of a step is taken over all of its batches and processes, then the number of experts in use of each layer:
    a mean over steps before that would hide a router that sends all records to one pair of experts now and to another
    later.

    Args:
        num_experts, per_record: experts of a layer, and of them those that a record is sent to.
    """

    def __init__(self, num_experts: int = 0, per_record: int = 0):
        self.num_experts, self.per_record = num_experts, per_record
        self.total = _nothing_yet()
        self._batches: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
        self._steps: list[tuple[int, Tensor, Tensor | None]] = []  # number, [loss, balance loss], [layers, E]
        self._unlogged: list[dict[str, float]] = []
        self._warned = False

    def add_batch(self, loss: Tensor, load: Tensor | None, balance: Tensor | None) -> None:
        """Add a batch of the step that is under way."""
        self._batches.append((loss.detach(), load, balance))

    def on_step_end(self, args, state, control, **kwargs):
        if not self._batches:
            return
        losses, loads, balances = zip(*self._batches, strict=True)
        balance = torch.stack(balances).sum() if balances[0] is not None else torch.zeros_like(losses[0])
        load = torch.stack(loads).mean(0) if loads[0] is not None else None
        self._steps.append((state.global_step, torch.stack([torch.stack(losses).sum(), balance.float()]), load))
        self._batches = []

    def on_train_begin(self, args, state, control, **kwargs):
        saved = state.stateful_callbacks.get(type(self).__name__, {})
        self.total = _nothing_yet() | saved.get("attributes", {}).get("total", {})

    def state(self) -> dict[str, Any]:
        return {
            "args": {"num_experts": self.num_experts, "per_record": self.per_record},
            "attributes": {"total": dict(self.total)},
        }

    def read(self, reduce: Callable[..., Tensor]) -> None:
        """Bring the steps since the last reading into the totals.

        Args:
            reduce: over all processes, with `reduction` "mean" or "sum".

        Raises:
            DivergedError: naming the first step whose loss is no number.
        """
        if not self._steps:
            return
        numbers = [number for number, _, _ in self._steps]
        sums = torch.stack([values for _, values, _ in self._steps]).double()
        losses = reduce(sums[:, 0], reduction="mean").tolist()
        balance = reduce(sums[:, 1], reduction="sum").tolist()
        loads = [load for _, _, load in self._steps if load is not None]
        self._steps = []
        for number, loss in zip(numbers, losses, strict=True):
            if not math.isfinite(loss):
                raise DivergedError(
                    f"training diverged: the loss of step {number} is {loss}. Lower --learning_rate, or look at the"
                    " data; the earlier checkpoints are whole"
                )
            self.total["loss"] += loss
        self.total["steps"] += len(numbers)
        if loads:
            self._read_loads(numbers, reduce(torch.stack(loads).float(), reduction="mean"), balance)

    def _read_loads(self, numbers: list[int], loads: Tensor, balance: list[float]) -> None:
        """As `read`; loads [steps, layers, E]."""
        in_use = experts_in_use(loads)  # [steps, layers]
        fewest = in_use.min(-1).values
        worst, layers = int(fewest.argmin()), in_use.shape[-1]
        place = int(in_use.argmin())
        collapsed = int((fewest < self.per_record + COLLAPSED).sum()) if self.per_record < self.num_experts else 0
        total = self.total
        total["in_use"] += float(fewest.double().sum())
        total["collapsed"] += collapsed
        if total["worst"] is None or float(fewest[worst]) < total["worst"]:
            total |= {"worst": float(fewest[worst]), "worst_step": numbers[worst], "worst_layer": place % layers}
        if collapsed and not self._warned:
            self._warned = True
            logger.warning(
                "step %d: the router of layer %d has collapsed, nearly all records go to the same %d of %d experts;"
                " all_results.json counts such steps. Lower the learning rate",
                numbers[worst],
                place % layers,
                self.per_record,
                self.num_experts,
            )
        largest, smallest = loads.amax((1, 2)).tolist(), loads.amin((1, 2)).tolist()
        names = ("router_aux_loss", "experts_in_use", "expert_load_max", "expert_load_min")
        values = zip(balance, fewest.tolist(), largest, smallest, strict=True)
        self._unlogged += [dict(zip(names, of_step, strict=True)) for of_step in values]

    def log(self) -> dict[str, float]:
        """Of the steps that were read since the last log: means, and the worst; empty without experts."""
        steps, self._unlogged = self._unlogged, []
        if not steps:
            return {}
        in_use = [step["experts_in_use"] for step in steps]
        return {
            "router_aux_loss": round(sum(step["router_aux_loss"] for step in steps) / len(steps), 4),
            "experts_in_use": round(sum(in_use) / len(steps), 3),
            "experts_in_use_worst": round(min(in_use), 3),
            "expert_load_max": round(max(step["expert_load_max"] for step in steps), 4),
            "expert_load_min": round(min(step["expert_load_min"] for step in steps), 4),
        }

    def results(self) -> dict[str, float]:
        """For the results of the run: the mean loss, and of the experts in use the mean of all steps and the worst."""
        total = self.total
        if not total["steps"]:
            return {}
        results: dict[str, float] = {"train_loss": total["loss"] / total["steps"]}
        if total["worst"] is not None:
            results |= {
                "train_experts_in_use": round(total["in_use"] / total["steps"], 3),
                "train_experts_in_use_worst": round(total["worst"], 3),
                "train_experts_worst_step": total["worst_step"],
                "train_experts_worst_layer": total["worst_layer"],
                "train_collapsed_steps": total["collapsed"],
            }
        return results


def _nothing_yet() -> dict[str, Any]:
    return {
        "steps": 0,
        "loss": 0.0,
        "in_use": 0.0,
        "collapsed": 0,
        "worst": None,
        "worst_step": 0,
        "worst_layer": 0,
    }
