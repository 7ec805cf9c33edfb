"""The published networks as models of transformers: inputs, loss, training, saving, refusals."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, Trainer, TrainingArguments

from stmoe_hf.model.configuration_mobility_bert import MobilityBertConfig
from stmoe_hf.model.configuration_stmoe_bert import STMoEBertConfig
from stmoe_hf.model.modeling_mobility_bert import MobilityBERT, MobilityBERTMoE

NETWORKS = (MobilityBERT, MobilityBERTMoE)
MASK, PAD = 20, 21


def small_config(kind: type[MobilityBertConfig] = MobilityBertConfig, **changes) -> MobilityBertConfig:
    sizes = {
        "grid_width": 5,
        "grid_height": 4,
        "location_embedding_size": 8,
        "day_embedding_size": 4,
        "time_embedding_size": 4,
        "day_of_week_embedding_size": 4,
        "weekday_embedding_size": 2,
        "hidden_size": 16,
        "hidden_layers": 2,
        "attention_heads": 4,
        "bert_attention_heads": 2,
        "intermediate_size": 24,
        "dropout": 0.0,
        "bert_dropout": 0.0,
        "max_seq_length": 16,
        "num_experts": 3,
        "head_chunk_size": 4,
    }
    return kind(**{**sizes, **changes})


def small_model(network: type, seed: int = 0, **changes):
    torch.manual_seed(seed)
    return network(small_config(network.config_class, **changes)).eval()


def row(length: int, asked: int, seed: int = 0) -> Tensor:
    """Inputs [length, 6] of a person whose last records are asked for."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.randint(75 * 48, (length,), generator=generator).sort().values
    weekday = (time // 48 + 6) % 7
    cell = torch.randint(20, (length,), generator=generator)
    cell[length - asked :] = MASK
    columns = [time // 48, time % 48, weekday, (weekday >= 5).long(), time.diff(prepend=time[:1]), cell]
    return torch.stack(columns, dim=-1)


def padded(rows: list[Tensor], width: int, left: bool = False) -> tuple[Tensor, Tensor]:
    inputs = torch.zeros(len(rows), width, 6, dtype=torch.long)
    inputs[..., 5] = PAD
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, records in enumerate(rows):
        part = slice(width - len(records), width) if left else slice(len(records))
        inputs[index, part], mask[index, part] = records, 1
    return inputs, mask


def labelled(inputs: Tensor, seed: int = 3) -> Tensor:
    cells = torch.randint(20, inputs.shape[:2], generator=torch.Generator().manual_seed(seed))
    return torch.where(inputs[..., 5] == MASK, cells, -100)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return padded([row(12, 4), row(7, 2, seed=1), row(9, 3, seed=2)], 12)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("left", [False, True])
def test_padding_on_either_side_changes_no_logit(network, left: bool):
    model = small_model(network)
    rows = [row(12, 4), row(7, 2, seed=1), row(9, 3, seed=2)]
    alone = torch.cat([model(records[None]).logits for records in rows])
    assert alone.shape == (9, 20)
    inputs, mask = padded(rows, 15, left)
    torch.testing.assert_close(model(inputs, mask).logits, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(inputs).logits, alone, rtol=0, atol=1e-6)  # the mask, from the padding cells
    # What stands at a padded position is never read.
    inputs[mask == 0] = torch.tensor([74, 47, 6, 1, 900, 3])
    torch.testing.assert_close(model(inputs, mask).logits, alone, rtol=0, atol=1e-6)


def test_eager_attention_gives_the_same_logits(batch):
    model = small_model(MobilityBERTMoE)
    eager = small_model(MobilityBERTMoE, attn_implementation="eager")
    assert eager.bert.config._attn_implementation == "eager"
    torch.testing.assert_close(eager(*batch).logits, model(*batch).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_loss_is_the_mean_cross_entropy_of_the_labelled_records(network, batch):
    model = small_model(network)
    inputs, mask = batch
    labels = labelled(inputs)
    labels[0, 9] = -100  # an asked-for record without a label
    expected = F.cross_entropy(model(inputs, mask).logits, labels[inputs[..., 5] == MASK], ignore_index=-100)
    outputs = model(inputs, mask, labels)
    torch.testing.assert_close(outputs.loss, expected)
    assert outputs.logits is None
    log_probability = outputs.log_probability
    assert log_probability.shape == (3, 4)
    assert (log_probability != 0).tolist() == [
        [True, False, True, True],
        [True] * 2 + [False] * 2,
        [True] * 3 + [False],
    ]
    torch.testing.assert_close(-log_probability.sum() / 8, expected)
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()))
    outputs.loss.backward()
    for parameter, gradient in zip(model.parameters(), expected_gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_losses_of_the_parts_of_a_step_add_up(network, batch):
    model = small_model(network)
    inputs, mask = batch
    labels = labelled(inputs)
    whole = model(inputs, mask, labels).loss
    parts = [
        model(inputs[part], mask[part], labels[part], num_items_in_batch=torch.tensor(9)).loss
        for part in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_batch_without_labels_gives_zero_loss_and_zero_gradients(network, batch):
    model = small_model(network)
    inputs, mask = batch
    loss = model(inputs, mask, torch.full_like(mask, -100)).loss
    loss.backward()
    assert loss.item() == 0
    assert not model.input_projection.weight.grad.any()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_trainer_learns_the_same_at_any_accumulation(network, tmp_path: Path):
    rows = [row(6 + n % 5, 1 + n % 3, seed=n) for n in range(8)]
    data = [{"inputs": records, "labels": labelled(records[None])[0]} for records in rows]

    def collate(windows):
        inputs, mask = padded([window["inputs"] for window in windows], 12)
        labels = torch.full_like(mask, -100)
        labels[mask == 1] = torch.cat([window["labels"] for window in windows])
        return {"inputs": inputs, "attention_mask": mask, "labels": labels}

    weights, losses = [], []
    for size, steps in ((8, 1), (2, 4)):
        model = small_model(network)
        trainer = Trainer(
            model,
            TrainingArguments(
                str(tmp_path / str(size)),
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
                max_steps=2,
                learning_rate=0.1,
                optim="sgd",
                use_cpu=True,
                remove_unused_columns=False,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
            ),
            data_collator=collate,
            train_dataset=data,
        )
        losses.append(trainer.train().training_loss)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_gets_a_gradient_also_with_activation_checkpointing(network, batch):
    gradients = []
    for checkpointing in (False, True):
        model = small_model(network, dropout=0.2, bert_dropout=0.2).train()
        if checkpointing:
            model.gradient_checkpointing_enable()  # its name in every transformers from 5.17 on
        torch.manual_seed(5)
        model(*batch, labelled(batch[0])).loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("network", NETWORKS)
def test_the_dense_mixture_makes_the_difference(network):
    names = {name.split(".")[0] for name, _ in small_model(network).named_parameters()}
    assert ("moe" in names) == (network is MobilityBERTMoE)


def test_candidates_are_the_history_and_the_most_probable_cells(batch):
    model = small_model(MobilityBERTMoE)
    inputs, mask = batch
    log_probability = F.log_softmax(model(inputs, mask).logits, dim=-1).split([4, 2, 3])
    outputs = model(inputs, mask, labelled(inputs), num_candidates=3)
    assert outputs.loss is not None
    assert outputs.logits.shape == (3, 4, outputs.candidates.shape[1])
    for index, expected in enumerate(log_probability):
        cells = outputs.candidates[index]
        best = set(expected.exp().sum(0).topk(3).indices.tolist())
        history = {cell for cell in inputs[index, :, 5].tolist() if cell < 20}
        assert set(cells[cells >= 0].tolist()) == best | history
        found = outputs.logits[index, : len(expected)]
        torch.testing.assert_close(found[:, cells >= 0], expected[:, cells[cells >= 0]], rtol=0, atol=1e-6)
        assert torch.isneginf(found[:, cells < 0]).all()
        assert torch.isneginf(outputs.logits[index, len(expected) :]).all()


def test_holidays_count_as_weekends_only_if_the_configuration_says_so(batch):
    inputs, mask = batch
    holiday = inputs.clone()
    holiday[..., 3] = 1
    published, with_holidays = small_model(MobilityBERT), small_model(MobilityBERT, holidays_are_weekends=True)
    assert torch.equal(published(inputs, mask).logits, published(holiday, mask).logits)
    torch.testing.assert_close(with_holidays(inputs, mask).logits, published(inputs, mask).logits)
    assert not torch.allclose(with_holidays(holiday, mask).logits, published(inputs, mask).logits)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_saved_network_is_the_same_when_loaded_by_name_or_by_auto_model(network, batch, tmp_path: Path):
    model = small_model(network)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    for loaded in (network.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is network
        assert loaded.config.bert_attention_heads == 2
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
        assert torch.equal(loaded(*batch).logits, model(*batch).logits)


def test_weights_that_a_checkpoint_lacks_start_as_those_of_the_published_code(tmp_path: Path):
    model = small_model(MobilityBERTMoE, hidden_size=64)
    assert 0.8 < model.day_embedding.weight.std() < 1.2  # torch's start: a normal distribution of width 1
    bound = 1 / 8  # and uniform within 1 / sqrt(64)
    assert 0.9 * bound < model.output_projection.weight.abs().max() <= bound
    assert 0.015 < model.bert.encoder.layer[0].attention.self.query.weight.std() < 0.025  # BERT's own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_heads": 3}, "hidden_size 16 cannot be shared among num_attention_heads 3"),
        (
            {"hidden_size": 256, "bert_attention_heads": 12},
            "hidden_size 256 cannot be shared among bert_attention_heads",
        ),
        ({"num_location_ids": 40000}, "num_location_ids is 40000, but a grid of 5 x 4 has 20 cells"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"day_embedding_size": 0}, "day_embedding_size is 0"),
        ({"intermediate_size": 0}, "intermediate_size is 0"),
        ({"input_seq_length": 12, "predict_seq_length": 5}, "together are 17; max_seq_length is 16"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match="this configuration cannot work") as refused:
        small_config(**changes)
    assert message in str(refused.value)


def test_settings_of_parts_that_the_networks_do_not_have_are_refused():
    with pytest.raises(ValueError, match="no num_experts_per_tok, history_head; those belong to STMoEBert"):
        small_config(history_head=True, num_experts_per_tok=2)
    own = {field.name: field.default for field in dataclasses.fields(STMoEBertConfig)}
    common = {field.name for field in dataclasses.fields(MobilityBertConfig)}
    for name in own.keys() - common:
        with pytest.raises(ValueError, match=f"the published networks have no {name};"):
            small_config(**{name: own[name]})


def test_the_configuration_of_the_other_network_is_refused():
    with pytest.raises(TypeError, match="MobilityBERTMoE takes a MobilityBertMoEConfig, not a MobilityBertConfig"):
        MobilityBERTMoE(small_config())


def test_inputs_that_cannot_be_right_are_refused(batch):
    model = small_model(MobilityBERT)
    with pytest.raises(ValueError, match="a row has 17 records; this network takes 16"):
        model(row(17, 2)[None])
    with pytest.raises(ValueError, match=r"inputs must be \[rows, records, 6\]"):
        model(batch[0][..., :5])
    labels = labelled(batch[0])
    labels[0, 0] = 3
    with pytest.raises(ValueError, match="a label stands at a record that is not asked for"):
        model(*batch, labels)
