"""Routers that do not collapse: the experts share the records evenly, whatever all records have in common."""

import json

import pytest
import torch

from stmoe_hf import MobilityProcessor
from stmoe_hf.data.city import open_city
from stmoe_hf.data.splits import split_users
from stmoe_hf.data.windows import TrainingWindows, WindowShape
from stmoe_hf.model.experts_stmoe_bert import STMoEBertRouter
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.routing import RouterBalance, even_offsets
from stmoe_hf.training.run import run
from stmoe_hf.training.step_totals import experts_in_use

from ..helpers import ROOT, small_model, write_city


def in_use(logits: torch.Tensor, top_k: int = 2) -> float:
    """Experts in use by logits [N, E]."""
    counts = logits.topk(top_k).indices.flatten().bincount(minlength=logits.shape[1])
    return float(experts_in_use(counts / counts.sum()))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_offsets_make_experts_even_that_nearly_all_records_shun(top_k):
    torch.manual_seed(0)
    logits = torch.randn(4000, 4) * 0.05 + torch.tensor([0.0, 3.0, -2.0, 0.5])
    assert in_use(logits, top_k) == pytest.approx(top_k, abs=0.1)
    assert in_use(logits + even_offsets(logits, top_k), top_k) > 3.9


def test_records_of_two_kinds_are_shared_evenly_too():
    torch.manual_seed(0)
    kinds = torch.tensor([[1.0, 1.0, -1.0, -1.0]]) * torch.where(torch.arange(4000) < 3200, 1.0, -4.0)[:, None]
    logits = kinds + torch.randn(4000, 4) * 0.05  # their mean is 0: without offsets four fifths go to one pair
    assert in_use(logits) < 3.4
    assert in_use(logits + even_offsets(logits, 2)) > 3.9


@pytest.fixture
def windows(tmp_path) -> TrainingWindows:
    city = open_city("B", write_city(tmp_path, users=6), cache_dir=tmp_path / "cache")
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    return TrainingWindows(city, split_users(city, 60, 0.0, 0), WindowShape(), processor, 0)


def routers(model: torch.nn.Module) -> list[STMoEBertRouter]:
    return [module for module in model.modules() if isinstance(module, STMoEBertRouter)]


def test_a_new_model_uses_all_experts_and_only_the_shared_part_of_its_routers_is_set(windows):
    sizes = {"grid_width": 200, "grid_height": 200, "num_days": 75, "num_slots": 48, "cell_head": False}
    model = small_model(**sizes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = windows.processor.pad([windows[number] for number in range(len(windows))])
    for router in routers(model):
        router.weight.data += 0.5 * router.weight.data[0]  # all records to the same experts
    RouterBalance(model, windows, windows.processor).balance_by_windows()
    assert float(experts_in_use(model.eval()(**batch).expert_load).min()) > 3.9
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "router" in name}
    for name in changed:
        change = model.state_dict()[name] - before[name]
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 2  # a rank of the test's own, one of the balance


def test_frozen_routers_and_routers_that_choose_all_experts_stay(windows):
    frozen = small_model()
    for router in routers(frozen):
        router.weight.requires_grad_(False)
    for model in (frozen, small_model(num_experts_per_tok=4), small_model(num_experts=0)):
        assert RouterBalance(model, windows, windows.processor).routers == []


@pytest.mark.parametrize("seed", [1])
def test_a_short_training_of_few_people_with_a_shipped_config_uses_its_experts(tmp_path, seed):
    """The case in which layers ended with 2 of 4 experts, while the log said 3.9."""
    data = write_city(tmp_path / "data", users=16)
    options = ["--city", "B", "--data_dir", str(data), "--config", str(ROOT / "configs" / "demo.yaml")]
    options += ["--num_train_epochs", "3", "--eval_fraction", "0.2", "--seed", str(seed), "--use_cpu", "true"]
    run(*parse_arguments([*options, "--output_dir", str(tmp_path / "run"), "--disable_tqdm", "true"]))
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["test_experts_in_use"] > 3.5
    assert results["train_experts_in_use_worst"] > 3 and results["train_collapsed_steps"] == 0
    assert all(sum(layer) == pytest.approx(1, abs=1e-3) for layer in results["test_expert_load"])
