"""What is summed over the steps of a training: the load of the experts step by step, and a loss that is no number."""

from types import SimpleNamespace

import pytest
import torch

from stmoe_hf.training.step_totals import DivergedError, StepTotals

EVEN, FIRST, LAST = [0.25] * 4, [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]


def train(totals: StepTotals, steps: list, first: int = 1, saved: dict | None = None) -> StepTotals:
    """Go through steps, each a list of batches (loss, load of each layer)."""
    state = SimpleNamespace(stateful_callbacks={} if saved is None else {"StepTotals": saved}, global_step=0)
    totals.on_train_begin(None, state, None)
    for number, batches in enumerate(steps, first):
        for loss, load in batches:
            totals.add_batch(torch.tensor(loss), torch.tensor(load), torch.tensor(2.0))
        totals.on_step_end(None, SimpleNamespace(global_step=number), None)
    return totals


def one_process(tensor: torch.Tensor, reduction: str) -> torch.Tensor:
    return tensor


def test_a_router_that_sends_all_to_one_pair_now_and_to_another_later_is_not_balanced(caplog):
    totals = train(StepTotals(4, 2), [[(3.0, [EVEN, FIRST])], [(2.0, [EVEN, LAST])], [(1.0, [EVEN, EVEN])]])
    totals.read(one_process)
    log = totals.log()
    assert log["experts_in_use"] == pytest.approx((2 + 2 + 4) / 3, abs=1e-3)  # 4.0, were the loads averaged first
    assert log["experts_in_use_worst"] == pytest.approx(2.0, abs=1e-3)
    assert (log["expert_load_max"], log["expert_load_min"], log["router_aux_loss"]) == (0.5, 0.0, 2.0)
    results = totals.results()
    assert (results["train_experts_worst_step"], results["train_experts_worst_layer"]) == (1, 1)
    assert (results["train_collapsed_steps"], results["train_loss"]) == (2, 2.0)
    assert caplog.text.count("the router of layer 1 has collapsed, nearly all records go to the same 2 of 4") == 1


def test_the_batches_and_layers_of_a_step_are_no_steps():
    halves = [(1.0, [FIRST, EVEN]), (1.0, [LAST, EVEN])]  # together all experts are in use
    totals = train(StepTotals(4, 2), [halves])
    totals.read(one_process)
    assert totals.log()["experts_in_use"] == pytest.approx(4.0, abs=1e-3)
    assert totals.results()["train_loss"] == 2.0  # a batch's loss is its share of the step's


@pytest.mark.parametrize("read_every", [1, 2, 5])
def test_how_often_it_is_logged_and_where_it_is_broken_off_changes_nothing(read_every):
    random = torch.Generator().manual_seed(0)
    steps = [
        [(float(torch.rand((), generator=random)), torch.rand(2, 4, generator=random).softmax(-1).tolist())]
        for _ in range(5)
    ]
    unbroken = train(StepTotals(4, 2), steps)
    unbroken.read(one_process)
    totals, saved = StepTotals(4, 2), None
    for first in range(0, len(steps), read_every):
        totals = train(StepTotals(4, 2), steps[first : first + read_every], first + 1, saved)
        totals.read(one_process)
        saved = totals.state()
    assert totals.results() == unbroken.results()


def test_a_loss_that_is_no_number_ends_the_training_and_its_step_is_named():
    totals = train(StepTotals(4, 2), [[(1.0, [EVEN])], [(float("nan"), [EVEN])], [(float("nan"), [EVEN])]])
    with pytest.raises(DivergedError, match=r"the loss of step 2 is nan. Lower --learning_rate"):
        totals.read(one_process)


def test_a_network_without_experts_has_no_load():
    totals = StepTotals()
    totals.add_batch(torch.tensor(1.5), None, None)
    totals.on_step_end(None, SimpleNamespace(global_step=1), None)
    totals.read(one_process)
    assert totals.log() == {} and totals.results() == {"train_loss": 1.5}
