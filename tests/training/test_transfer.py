"""From city to city: fine-tuning with frozen parts and cell tables, the city embedding, zero-shot prediction."""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from stmoe_hf import MobilityProcessor, STMoEBertConfig, STMoEBertForMobility
from stmoe_hf.commands import predict as predict_command
from stmoe_hf.data.city import open_city
from stmoe_hf.data.splits import split_users
from stmoe_hf.data.windows import JointWindows, TrainingWindows, WindowShape
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import main, run
from stmoe_hf.training.transfer import freezable_parts, freeze

from ..helpers import SIZES, people, write_city

CONFIGS = Path(__file__).parents[2] / "configs"
TABLE = "model.embeddings.location.weight"
CITIES = "model.embeddings.city.weight"
SMALL = {
    "grid_width": 20,
    "grid_height": 10,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_experts": 2,
    "location_embedding_size": 4,
    "dropout": 0.0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, city in enumerate("ABD"):
        write_city(folder, city, users=10, seed=seed, masked=2 if city == "D" else 0)
    return folder


def arguments(data: Path, city: str, output: Path, *more: str) -> list[str]:
    common = ["--city", city, "--data_dir", str(data), "--cache_dir", str(data / "cache"), "--output_dir", str(output)]
    return [*common, *more, "--eval_users", "0", "--disable_tqdm", "true", "--use_cpu", "true"]


def train(data: Path, city: str, output: Path, *more: str) -> dict:
    return run(*parse_arguments(arguments(data, city, output, *more)))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def source(data, tmp_path_factory) -> Path:
    """A model of cities A and B, trained together, with a city embedding and a head over all cells."""
    folder = tmp_path_factory.mktemp("runs") / "cityA"
    options = ["--pretrain_cities", "B", "--city_embedding", "true", "--max_steps", "2", "--eval_fraction", "0"]
    train(data, "A", folder, *SIZES, *options, "--location_embedding_lr", "5e-3")
    return folder


STEPS = ("--max_steps", "2", "--eval_fraction", "0", "--warmup_steps", "0", "--logging_steps", "1")


def changed(before: Path, after: Path) -> set[str]:
    """The parts of a model of which some parameter is no longer the same."""
    old, new = weights(before), weights(after)
    return {name for name, tensor in old.items() if tensor.shape != new[name].shape or not tensor.equal(new[name])}


def test_frozen_parts_stay_and_the_rest_learns(source, data, tmp_path):
    train(data, "B", tmp_path / "run", "--model_path", str(source), "--freeze", "encoder", "cell_table", *STEPS)
    learned = changed(source, tmp_path / "run")
    assert {"model.embeddings.projection.weight", "history_head.slot_decay", "gate.bias"} <= learned
    assert not [name for name in learned if name.startswith(("model.encoder.", TABLE, "cell_head.decoder."))]


def test_an_unknown_part_is_refused_by_name_and_so_is_freezing_everything():
    model = STMoEBertForMobility(STMoEBertConfig(**SMALL))
    with pytest.raises(ValueError, match=r"freeze names attic, roof; .* are cell_head, cell_table, embeddings, enc"):
        freeze(model, ["encoder", "attic", "roof"])
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="nothing is left to train"):
        freeze(model, ["embeddings", "encoder", "history_head", "gate", "cell_head"])
    assert {"router", "experts"} <= freezable_parts(model).keys() and "city" not in freezable_parts(model)


def test_freezing_needs_a_trained_model(data, tmp_path, capsys):
    for option in (["--freeze", "encoder"], ["--cell_table", "reinit"]):
        assert main(arguments(data, "B", tmp_path / "run", *option)) == 1
        assert "they need --model_path" in capsys.readouterr().err


def test_the_cell_table_is_kept_frozen_or_drawn_anew(source, data, tmp_path):
    tables = {TABLE, "cell_head.decoder.weight", "cell_head.decoder.bias"}
    for choice in ("keep", "freeze"):
        train(data, "B", tmp_path / choice, "--model_path", str(source), "--cell_table", choice, *STEPS)
    assert tables <= changed(source, tmp_path / "keep")
    assert not tables & changed(source, tmp_path / "freeze")
    untrained = ("--num_train_epochs", "0", "--eval_fraction", "0.2")
    train(data, "B", tmp_path / "reinit", "--model_path", str(source), "--cell_table", "reinit", *untrained)
    assert changed(source, tmp_path / "reinit") == tables
    old, new = weights(source)[TABLE], weights(tmp_path / "reinit")[TABLE]
    assert (old[:40000] != new[:40000]).all(dim=-1).all()
    assert torch.equal(old[40000:], new[40000:])  # of asked-for records and padding
    assert new[:40000].std() == pytest.approx(0.02, rel=0.05)


def test_a_fine_tuning_config_needs_nothing_but_city_and_model(source, data, tmp_path):
    options = ("--model_path", str(source), "--config", str(CONFIGS / "finetune.yaml"), "--max_steps", "1")
    results = train(data, "D", tmp_path / "run", *options, "--warmup_steps", "0", "--logging_steps", "1")
    assert results["decoder"] == "day"
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert history[0]["learning_rate"] == pytest.approx(3e-4)
    assert {TABLE, "model.encoder.layer.0.attention.self.query.weight"} <= changed(source, tmp_path / "run")


def test_without_it_a_model_has_no_city_embedding_and_takes_no_notice_of_cities():
    model = STMoEBertForMobility(STMoEBertConfig(**SMALL)).eval()
    assert model.config.cities is None and not [name for name, _ in model.named_parameters() if "city" in name]
    batch = MobilityProcessor(grid_width=20, grid_height=10)([[(0, 1, 5, 5), (1, 2, 999, 999)]] * 2)
    assert torch.equal(model(**batch, city=torch.tensor([0, 7])).logits, model(**batch).logits)


def test_an_unknown_city_has_the_mean_vector_of_the_known_ones():
    model = STMoEBertForMobility(STMoEBertConfig(**SMALL, cities=["A", "B"])).eval()
    vectors = model.model.embeddings.city.weight
    assert torch.equal(vectors, torch.zeros(2, 16))
    torch.nn.init.normal_(vectors)
    torch.nn.init.normal_(model.gate.weight)
    batch = MobilityProcessor(grid_width=20, grid_height=10)([[(0, 1, 5, 5), (1, 2, 999, 999)]] * 3)
    logits = model(**batch, city=torch.tensor([0, 1, -1])).logits
    assert (logits[0] - logits[1]).abs().max() > 1e-3 < (logits[0] - logits[2]).abs().max()
    assert torch.allclose(model(**batch).logits, logits[2].expand(3, -1), atol=1e-6)
    model.add_cities(["B", "C"])
    assert model.config.cities == ["A", "B", "C"]
    assert torch.allclose(model(**batch, city=torch.tensor([0, 1, 2])).logits, logits, atol=1e-6)


def test_windows_of_joint_training_carry_their_city(data):
    cities = [open_city(name, data, cache_dir=data / "cache") for name in "AB"]
    processor = MobilityProcessor.for_data(cities[0].grid, cities[0].calendar)
    windows = [
        TrainingWindows(city, split_users(city, 60, 0.0, 0), WindowShape(), processor, 0, city_id=number)
        for number, city in enumerate(cities)
    ]
    joint = JointWindows(windows)
    batch = processor.pad([joint[item] for item in (0, 9, 10, 19)])
    assert batch["city"].tolist() == [0, 0, 1, 1]


def test_joint_training_teaches_each_city_its_vector_and_a_new_one_starts_from_their_mean(source, data, tmp_path):
    assert AutoModel.from_pretrained(source).config.cities == ["humob2024-A", "humob2024-B"]
    vectors = weights(source)[CITIES]
    assert (vectors != 0).any(dim=-1).all() and not torch.equal(vectors[0], vectors[1])
    still = ("--learning_rate", "0", "--location_embedding_lr", "0")
    train(data, "D", tmp_path / "start", "--model_path", str(source), *STEPS, *still)
    start = weights(tmp_path / "start")[CITIES]
    assert torch.equal(start[:2], vectors) and torch.allclose(start[2], vectors.mean(0))
    train(data, "D", tmp_path / "run", "--model_path", str(source), *STEPS, "--weight_decay", "0")
    tuned = weights(tmp_path / "run")[CITIES]
    assert torch.equal(tuned[:2], vectors) and not torch.equal(tuned[2], start[2])  # only the city of the data learns
    assert AutoModel.from_pretrained(tmp_path / "run").config.cities[2] == "humob2024-D"


def test_the_published_networks_refuse_a_city_embedding(data, tmp_path, capsys):
    options = ("--model_name", "MobilityBERTMoE", "--hidden_size", "16", "--num_hidden_layers", "1")
    assert main(arguments(data, "B", tmp_path / "run", *options, "--city_embedding", "true")) == 1
    assert "MobilityBERTMoE has no city embedding" in capsys.readouterr().err


def test_a_city_never_trained_on_is_predicted_whole_and_alike_by_run_and_command(source, data, tmp_path):
    options = ("--model_path", str(source), "--num_train_epochs", "0", "--eval_fraction", "1.0")
    results = train(data, "D", tmp_path / "run", *options)
    assert results["test_users"] == 8 and results["city"] == "D"
    assert not changed(source, tmp_path / "run")
    predicted = pd.read_csv(tmp_path / "run" / "predictions.csv.gz")
    truth = people(users=10, seed=2, masked=2)
    asked = truth[truth["d"] >= 60].reset_index(drop=True)
    assert predicted[["uid", "d", "t"]].equals(asked[["uid", "d", "t"]])
    parser = argparse.ArgumentParser()
    predict_command.add_arguments(parser)
    command = ["--model", str(source), "--data_dir", str(data), "--cache_dir", str(data / "cache"), "--city", "D"]
    predict_command.run(parser.parse_args([*command, "--plain", "--output", str(tmp_path / "out.csv")]))
    by_command = pd.read_csv(tmp_path / "out.csv").sort_values(["uid", "d", "t"], ignore_index=True)
    pd.testing.assert_frame_equal(by_command, predicted)
    assert np.isfinite([results["test_humob2024_geobleu"], results["test_humob2025_dtw"]]).all()
