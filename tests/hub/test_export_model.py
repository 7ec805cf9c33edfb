"""`stmoe export-model`: a network as one file of another runtime, which says what the network says."""

import importlib.util

import pytest
import torch

from stmoe_hf import MobilityProcessor
from stmoe_hf import __main__ as stmoe
from stmoe_hf.hub import export_model as exporting
from stmoe_hf.hub.export_model import WindowSize, example, export_model, load
from stmoe_hf.model.modeling_mobility_bert import MobilityBERT

from ..helpers import ROOT, small_model
from ..model.test_field import field_model
from ..model.test_modeling_mobility_bert import small_model as published_model
from ..test_readme import blocks

MISSING = [name for name in exporting.NEEDED["onnx"] if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install '.[onnx]'")
FEW = {"num_hidden_layers": 1, "num_experts": 2}
PACKAGE_GRID = {"grid_width": 200, "grid_height": 200, "num_days": 75}
OTHER = WindowSize(records=75, asked=11, cells=17, others=29)


def said(model, window: dict) -> torch.Tensor:
    with torch.no_grad():
        told = {name: value for name, value in window.items() if name != "cells"}
        return model(**told).logits[None, :, window["cells"]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network with a city field in a folder, as a run leaves it, and the network."""
    folder = tmp_path_factory.mktemp("export") / "run"
    model = field_model(**FEW, **PACKAGE_GRID).eval()
    model.save_pretrained(folder)
    MobilityProcessor().save_pretrained(folder)
    return folder, model


def exported(saved, name: str, capsys):
    """The file that the command writes beside the folder; what docs/runtimes.md does with it is tried there."""
    folder, _ = saved
    assert stmoe.main(["export-model", "--model", str(folder), "--output", str(folder.parent / name)]) == 0
    assert "loaded again and compared: log-probabilities within" in capsys.readouterr().out
    assert not list(folder.parent.glob(".*")), "nothing half-made is left"
    return folder.parent / name


@pytest.mark.runtimes
def test_a_program_of_torch_export_says_what_the_network_says(saved, capsys, monkeypatch):
    model, file = saved[1], exported(saved, "network.pt2", capsys)
    run = load(file)
    for seed in range(2):  # asked alone, and together
        window = example(model, OTHER, seed)
        assert torch.allclose(run(window), said(model, window), atol=1e-5)
    monkeypatch.chdir(file.parent)
    names: dict = {}
    exec(blocks(ROOT / "docs" / "runtimes.md", "python")[0], names)
    assert torch.allclose(names["probabilities"].log(), said(model, names["window"]), atol=1e-5)


@needs_onnx
@pytest.mark.runtimes
def test_a_file_of_onnx_says_what_the_network_says(saved, capsys, monkeypatch):
    model, file = saved[1], exported(saved, "network.onnx", capsys)
    run = load(file)
    for seed in range(2):
        window = example(model, OTHER, seed)
        assert torch.allclose(run(window), said(model, window), atol=1e-4)
    monkeypatch.chdir(file.parent)
    names: dict = {"window": window}
    exec(blocks(ROOT / "docs" / "runtimes.md", "python")[1], names)
    assert torch.allclose(torch.from_numpy(names["log_probabilities"]), said(model, window), atol=1e-4)


@pytest.mark.runtimes
@pytest.mark.parametrize(
    "network",
    [
        lambda: small_model(history_spread=3, record_features=True, **FEW),
        lambda: small_model(history_head=False, cities=["A", "B"], **FEW),
        pytest.param(
            lambda: field_model(city_field_poi=True, cell_km=0.25, trained_cell_km=0.5, **FEW), marks=pytest.mark.slow
        ),
    ],
    ids=["cell head", "no history head, cities", "points of interest, cells of another size"],
)
def test_every_kind_of_network_is_exported(network, tmp_path):
    assert export_model(network().eval(), tmp_path / "network.pt2") <= 1e-5


@needs_onnx
@pytest.mark.runtimes
def test_a_network_with_a_cell_head_becomes_onnx(tmp_path):
    model = small_model(history_spread=3, record_features=True, **FEW).eval()
    assert export_model(model, tmp_path / "network.onnx") <= 1e-4


@pytest.mark.runtimes
def test_a_network_that_is_exported_stays_as_it_was(tmp_path):
    model = small_model(history_head=False, **FEW).train()
    experts = model.config._experts_implementation
    export_model(model, tmp_path / "network.pt2")
    assert model.training
    assert model.config._experts_implementation == experts


@pytest.mark.runtimes
def test_a_file_that_differs_from_the_network_is_not_kept(monkeypatch, tmp_path):
    model = small_model(history_head=False, **FEW).eval()

    def trace_another(_, window):
        other = small_model(history_head=False, **FEW).eval()
        torch.nn.init.normal_(other.cell_head.decoder.bias)
        return right(other, window)

    right = exporting.trace
    monkeypatch.setattr(exporting, "trace", trace_another)
    with pytest.raises(ValueError, match=r"differs from the network by .* was not written"):
        export_model(model, tmp_path / "network.pt2")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said_in_a_line(saved, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="a MobilityBERT cannot be exported"):
        export_model(published_model(MobilityBERT), tmp_path / "network.pt2")

    def refused(*options: str) -> str:
        assert stmoe.main(["export-model", "--model", str(saved[0]), *options]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert "must end in .pt2 or .onnx" in refused("--output", str(tmp_path / "network.bin"))
    assert "must end in .onnx" in refused("--output", str(tmp_path / "network.pt2"), "--format", "onnx")
    assert "does not exist" in refused("--output", str(tmp_path / "nowhere" / "network.pt2"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'stmoe-hf[onnx]'" in refused("--output", str(tmp_path / "network.onnx"))
