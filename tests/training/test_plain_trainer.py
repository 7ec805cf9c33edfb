"""The contract with transformers: a plain Trainer, and networks whose weights are quantised."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, BitsAndBytesConfig, Trainer, TrainingArguments

from stmoe_hf.data.city import open_city
from stmoe_hf.data.splits import split_users
from stmoe_hf.data.windows import TrainingWindows, WindowShape
from stmoe_hf.model.processing_stmoe_bert import MobilityProcessor

from ..helpers import batch, small_model, write_city

SIZES = {"grid_width": 200, "grid_height": 200, "num_days": 75, "num_slots": 48, "cell_head": False}


@pytest.fixture
def windows(tmp_path) -> TrainingWindows:
    city = open_city("B", write_city(tmp_path, users=5), cache_dir=tmp_path / "cache")
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    return TrainingWindows(city, split_users(city, 60, 0.0, 0), WindowShape(), processor, 0)


def test_a_plain_trainer_takes_the_processor_trains_saves_it_and_measures(windows, tmp_path):
    seen = {}

    def metrics(outcome) -> dict[str, float]:
        known = outcome.label_ids != -100
        seen["shapes"] = outcome.predictions.shape, outcome.label_ids.shape
        return {"nll": -outcome.predictions[outcome.predictions != -100].sum() / known.sum()}

    options = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none", "max_steps": 1}
    trainer = Trainer(
        small_model(**SIZES),
        TrainingArguments(
            **options, per_device_eval_batch_size=2, remove_unused_columns=False, disable_tqdm=True, save_strategy="no"
        ),
        train_dataset=windows,
        eval_dataset=windows,
        processing_class=windows.processor,
        data_collator=windows.processor.pad,
        compute_metrics=metrics,
    )
    trainer.train()
    trainer.save_model()
    assert MobilityProcessor.from_pretrained(tmp_path / "run").grid_width == 200
    outcome = trainer.predict(windows)
    assert seen["shapes"][0][0] == seen["shapes"][1][0] == 5
    assert outcome.metrics["test_nll"] == pytest.approx(outcome.metrics["test_loss"], rel=0.2)
    assert np.isfinite(outcome.predictions).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_network_with_quantised_layers_predicts_nearly_the_same():
    model = small_model(cell_head=False).eval()
    inputs, _ = batch()
    try:
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        with torch.no_grad():
            ours, theirs = quantised(inputs).logits, model(inputs).logits
    except RuntimeError as error:
        if "engine" in str(error).lower():
            pytest.skip("this machine has no quantised products")
        raise
    assert float((ours.exp() - theirs.exp()).abs().sum(-1).mean()) < 0.1  # of 2, if they had nothing in common


def test_a_network_loaded_in_8_bits_predicts_nearly_the_same(tmp_path):
    bits = pytest.importorskip("bitsandbytes.nn")
    model = small_model(cell_head=False).eval()
    model.save_pretrained(tmp_path)
    settings = BitsAndBytesConfig(load_in_8bit=True)
    eighth = AutoModel.from_pretrained(tmp_path, quantization_config=settings, device_map={"": "cpu"}).eval()
    assert any(isinstance(module, bits.Linear8bitLt) for module in eighth.modules())
    inputs, _ = batch()
    with torch.no_grad():
        ours, theirs = eighth(inputs).logits, model(inputs).logits
    assert float((ours.exp() - theirs.exp()).abs().sum(-1).mean()) < 0.1


def test_flash_attention_which_nobody_tried_is_not_offered():
    with pytest.raises(ValueError, match="Flash"):
        small_model().set_attn_implementation("flash_attention_2")
