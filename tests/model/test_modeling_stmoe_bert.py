"""The network: losses that no cutting of a step changes, implementations that agree, saving, bad input."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel

from stmoe_hf import STMoEBertConfig, STMoEBertForMobility, STMoEBertModel
from stmoe_hf.model.cell_head_stmoe_bert import CellLogProbability
from stmoe_hf.model.experts_stmoe_bert import (
    STMoEBertExperts,
    balance,
    experts_implementation_on,
    experts_in_turn,
    grouped_experts,
)
from stmoe_hf.model.records import CELL, NO_LABEL

from ..helpers import SMALL, batch, small_model


def gradients(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_experts": 0},
        {"history_head": False},
        {"cell_head": False},
        {"location_embedding_size": 0},
        {"history_spread": 2, "record_features": True, "cell_head": False},
    ],
)
def test_the_loss_is_the_mean_negative_log_probability_plus_the_balance_loss(changes):
    model = small_model(**changes).eval()
    inputs, labels = batch()
    output = model(inputs, labels=labels)
    log_probability = model(inputs).logits
    assert torch.allclose(log_probability.exp().sum(-1), torch.ones(len(log_probability)), atol=1e-5)
    truth = labels[labels != NO_LABEL]
    cross_entropy = -log_probability.gather(1, truth[:, None]).mean()
    balance = 0.0 if output.aux_loss is None else model.config.router_aux_loss_coef * output.aux_loss
    assert torch.allclose(output.loss, cross_entropy + balance, atol=1e-5)
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_accumulation_and_padding_change_neither_loss_nor_gradients():
    inputs, labels = batch()
    total = (labels != NO_LABEL).sum()
    whole = small_model().train()
    loss = whole(inputs, labels=labels, num_items_in_batch=total).loss
    loss.backward()
    parts = small_model().train()
    sums = []
    for row in range(len(inputs)):
        length = int((inputs[row, :, CELL] != whole.config.pad_id).sum())  # and without the row's padding
        part = parts(inputs[row : row + 1, :length], labels=labels[row : row + 1, :length], num_items_in_batch=total)
        part.loss.backward()
        sums.append(torch.stack([part.loss.detach(), part.aux_loss.detach()]))
    assert torch.allclose(sum(sums)[0], loss, atol=1e-5)
    assert torch.allclose(sum(sums)[1], whole(inputs, labels=labels).aux_loss, atol=1e-5)
    assert torch.allclose(gradients(parts), gradients(whole), atol=1e-5)


def test_without_a_count_the_loss_is_the_mean_of_the_batch():
    model = small_model().eval()
    inputs, labels = batch()
    assert torch.allclose(
        model(inputs, labels=labels).loss,
        model(inputs, labels=labels, num_items_in_batch=int((labels != NO_LABEL).sum())).loss,
    )


def test_every_implementation_of_attention_and_experts_gives_the_same():
    inputs, labels = batch()
    usual = small_model()
    assert usual.config._attn_implementation == "sdpa"
    expected = usual(inputs, labels=labels)
    expected.loss.backward()
    for change in ({"attn": "eager"}, *({"experts": name} for name in ("grouped_mm", "batched_mm", "stmoe_grouped"))):
        other = small_model()
        if "attn" in change:
            other.set_attn_implementation(change["attn"])
        else:
            other.set_experts_implementation(change["experts"])
            assert other.config._experts_implementation == change["experts"]
        output = other(inputs, labels=labels)
        output.loss.backward()
        assert torch.allclose(output.loss, expected.loss, atol=1e-5), change
        assert torch.allclose(gradients(other), gradients(usual), atol=1e-5), change


def test_experts_equal_a_plain_sum_over_the_chosen_ones():
    torch.manual_seed(0)
    experts = STMoEBertExperts(small_model().config)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    hidden, index = torch.randn(50, 32), torch.rand(50, 4).topk(2, dim=-1).indices
    weights = torch.rand(50, 2)
    expected = torch.zeros_like(hidden)
    for record in range(50):
        for choice in range(2):
            e = index[record, choice]
            inner = torch.nn.functional.gelu(experts.up_proj[e] @ hidden[record] + experts.up_proj_bias[e])
            expected[record] += weights[record, choice] * (experts.down_proj[e] @ inner + experts.down_proj_bias[e])
    experts.config._experts_implementation = "eager"
    assert torch.allclose(experts(hidden, index, weights), expected, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_the_loop_are_those_of_what_it_computes(frozen):
    torch.manual_seed(0)
    experts = STMoEBertExperts(small_model(hidden_size=4, moe_intermediate_size=3, num_attention_heads=1).config)
    experts = experts.double().requires_grad_(not frozen)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    experts.config._experts_implementation = "eager"
    names = [name for name, _ in experts.named_parameters()]
    index = torch.tensor([[0, 3], [3, 1], [1, 0], [0, 1], [3, 0]])  # none to 2

    def of(hidden, weights, *parameters):
        return torch.func.functional_call(experts, dict(zip(names, parameters, strict=True)), (hidden, index, weights))

    hidden, weights = torch.randn(5, 4).double().requires_grad_(), torch.rand(5, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(of, (hidden, weights, *experts.parameters()))
    assert all(parameter.grad is None for parameter in experts.parameters())


def test_the_loop_keeps_one_tensor_as_wide_as_the_experts():
    kept = []
    experts = STMoEBertExperts(small_model(moe_intermediate_size=200).config).requires_grad_()
    experts.config._experts_implementation = "eager"
    hidden, index = torch.randn(50, 32, requires_grad=True), torch.rand(50, 4).topk(2, dim=-1).indices
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        experts(hidden, index, torch.rand(50, 2))
    assert kept.count((100, 200)) == 1  # records times experts of a record
    assert not [shape for shape in kept if shape[:1] == (100,) and len(shape) > 1 and shape != (100, 200)]


def test_in_bf16_the_grouped_experts_agree_with_the_loop_and_their_gradients_are_fp32():
    inputs, labels = batch()
    results = []
    for implementation in ("eager", "stmoe_grouped"):
        model = small_model()
        model.set_experts_implementation(implementation)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(inputs, labels=labels).loss
        loss.backward()
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
        experts = model.model.encoder.layer[0].intermediate.experts
        results.append((loss.detach(), gradients(experts)))
    (loss, gradient), (grouped_loss, grouped_gradient) = results
    assert torch.allclose(grouped_loss, loss, rtol=1e-2)
    assert (grouped_gradient - gradient).norm() < 0.03 * gradient.norm()  # bf16 has 8 bits
    assert gradient.norm() > 0


def test_the_grouped_products_run_in_the_dtype_of_autocast():
    class Watch(TorchDispatchMode):
        dtypes: tuple = ()

        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if "_grouped_mm" in str(operator):
                self.dtypes += (args[0].dtype, args[1].dtype)
            return operator(*args, **(kwargs or {}))

    model = small_model()
    model.set_experts_implementation("stmoe_grouped")
    with Watch() as watch, torch.autocast("cpu", dtype=torch.bfloat16):
        model(batch()[0])
    assert watch.dtypes == (torch.bfloat16,) * 8  # two products of two factors in two layers


def test_experts_that_no_record_is_sent_to_are_handled_by_every_implementation():
    torch.manual_seed(0)
    experts = STMoEBertExperts(small_model().config)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    hidden, weights = torch.randn(6, 32), torch.rand(6, 2)
    index = torch.tensor([[3, 1]] * 6)  # none to 0 and 2
    results = []
    for implementation in ("eager", "stmoe_grouped"):
        experts.config._experts_implementation = implementation
        experts.zero_grad()
        result = experts(hidden, index, weights)
        result.sum().backward()
        results.append((result, experts.up_proj.grad.clone()))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-5)
    assert not results[1][1][[0, 2]].any() and results[1][1][[1, 3]].any()


@pytest.mark.parametrize("changes", [{"history_head": False}, {"history_spread": 2, "record_features": True}])
def test_loss_and_predictions_equal_the_simple_path(changes):
    """Each expert on its own records, attention written out, one softmax over all cells; then the same in small steps.

    The fast path cuts the cross-entropy into chunks and takes the grouped products and fused attention.
    """
    inputs, labels = batch()
    simple = small_model(**changes).train()  # dropout is 0
    simple.set_attn_implementation("eager")
    logits = simple(inputs).logits
    truth = labels[labels != NO_LABEL]
    loss = torch.nn.functional.nll_loss(logits, truth)
    fast = small_model(**changes, head_chunk_size=5, attention_dropout=0.0).train()
    fast.set_experts_implementation("stmoe_grouped")
    output = fast(inputs, labels=labels)
    fast_loss = output.loss - fast.config.router_aux_loss_coef * output.aux_loss
    assert torch.allclose(fast_loss, loss, atol=1e-5)
    assert torch.allclose(fast(inputs).logits, logits, atol=1e-5)
    loss.backward()
    fast_loss.backward()
    assert torch.allclose(gradients(fast), gradients(simple), atol=1e-5)


def test_dropout_of_the_attention_has_a_setting_of_its_own():
    def of_attention(model):
        return {layer.attention.self.dropout.p for layer in model.model.encoder.layer}

    assert of_attention(small_model(dropout=0.3)) == {0.0}
    apart = small_model(dropout=0.3, attention_dropout=0.1)
    assert of_attention(apart) == {0.1} and apart.model.encoder.layer[0].output.dropout.p == 0.3


def machine_with_gpu(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)


@pytest.mark.parametrize(
    ("device", "capability", "changes", "expected"),
    [
        ("cuda", (8, 0), {}, "stmoe_grouped"),
        ("cuda", (7, 5), {}, "eager"),
        ("cuda", (9, 0), {"moe_intermediate_size": 12}, "eager"),
        ("cpu", (9, 0), {}, "eager"),
        ("meta", (9, 0), {}, "eager"),
        ("cuda", (9, 0), {"experts_implementation": "grouped_mm"}, "grouped_mm"),
        ("cpu", (9, 0), {"experts_implementation": "stmoe_grouped"}, "stmoe_grouped"),
    ],
)
def test_the_experts_run_as_is_fastest_where_the_model_is_or_as_was_asked(
    monkeypatch, device, capability, changes, expected
):
    machine_with_gpu(monkeypatch, capability)
    model = small_model(**changes)
    assert model._can_set_experts_implementation()
    assert experts_implementation_on(torch.device(device), model.config) == expected


def test_a_model_on_the_cpu_of_a_machine_with_a_gpu_runs_its_experts_in_turn(monkeypatch):
    expected = small_model()(batch()[0]).logits
    ran = []
    for function in (experts_in_turn, grouped_experts):
        watched = lambda *args, run=function: ran.append(run.__name__) or run(*args)  # noqa: E731
        monkeypatch.setattr(f"{function.__module__}.{function.__name__}", watched)
    machine_with_gpu(monkeypatch, (9, 0))
    assert torch.equal(small_model()(batch()[0]).logits, expected)
    assert set(ran) == {"experts_in_turn"}
    ran.clear()
    monkeypatch.setattr(f"{experts_in_turn.__module__}.experts_implementation_on", lambda *_: "stmoe_grouped")
    assert torch.allclose(small_model()(batch()[0]).logits, expected, atol=1e-5)
    assert set(ran) == {"grouped_experts"}


def test_activation_checkpointing_changes_no_gradient():
    inputs, labels = batch()
    plain, checkpointed = small_model().train(), small_model().train()
    checkpointed.gradient_checkpointing_enable()
    for model in (plain, checkpointed):
        model(inputs, labels=labels).loss.backward()
    assert torch.equal(gradients(plain), gradients(checkpointed))


@pytest.mark.parametrize("block", [7, 2000])
def test_chunked_cross_entropy_equals_the_plain_one_in_value_and_gradient(monkeypatch, block):
    monkeypatch.setattr(f"{CellLogProbability.__module__}.CELLS_AT_ONCE", block)
    torch.manual_seed(0)
    hidden, weight = torch.randn(37, 8, requires_grad=True), torch.randn(101, 8, requires_grad=True)
    bias, labels = torch.randn(101, requires_grad=True), torch.randint(0, 101, (37,))
    upstream = torch.rand(37)
    plain = torch.log_softmax(hidden @ weight.t() + bias, -1).gather(1, labels[:, None])[:, 0]
    expected = torch.autograd.grad((plain * upstream).sum(), (hidden, weight, bias))
    for chunk in (1, 10, 1000):
        chunked = CellLogProbability.apply(hidden, weight, bias, labels, chunk)
        assert torch.allclose(chunked, plain, atol=1e-5)
        for ours, theirs in zip(
            torch.autograd.grad((chunked * upstream).sum(), (hidden, weight, bias)), expected, strict=True
        ):
            assert torch.allclose(ours, theirs, atol=1e-5)


def test_an_untrained_history_head_is_the_time_kernel_frequency():
    model = STMoEBertForMobility(STMoEBertConfig(**SMALL)).eval()
    inputs, _ = batch(rows=1, asked=(4,))
    logits = model(inputs).logits
    history, asked = inputs[0, :-4], inputs[0, -4:]
    apart = (asked[:, None, 1] - history[:, 1]).abs()
    apart = torch.minimum(apart, 24 - apart)
    weight = torch.exp(-apart / 1.5 - (asked[:, None, 0] - history[:, 0]).abs() / 100)
    weight = weight * torch.where(asked[:, None, 3] == history[:, 3], 1.0, 0.15)
    weight = weight * torch.where(asked[:, None, 2] == history[:, 2], 1.5, 1.0)
    weight = weight / weight.sum(-1, keepdim=True)
    frequency = torch.zeros(4, 120).index_add_(1, history[:, CELL], weight)
    everywhere = model.cell_head(model.model(inputs).last_hidden_state[0, -4:]).exp()
    assert torch.allclose(logits.exp(), 0.98 * frequency + 0.02 * everywhere, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"history_head": False},
        {"history_spread": 2, "record_features": True},
        {"history_spread": 2, "cell_head": False},
    ],
)
def test_candidates_hold_the_probabilities_of_the_whole_grid(changes):
    model = small_model(**changes).eval()
    inputs, labels = batch()
    everything, some = model(inputs).logits, model(inputs, num_candidates=5)
    counts = (labels != NO_LABEL).sum(-1)
    start = 0
    for row, count in enumerate(counts):
        cells = some.candidates[row][some.candidates[row] >= 0]
        expected = set(everything[start : start + count].exp().sum(0).topk(5).indices.tolist())
        if model.config.history_head:
            expected |= set(inputs[row, (inputs[row, :, CELL] < model.config.num_cells), CELL].tolist())
        assert set(cells.tolist()) == expected
        assert torch.allclose(
            some.logits[row, :count, : len(cells)], everything[start : start + count][:, cells], atol=1e-5
        )
        start += count


def test_a_row_without_history_and_one_without_asked_for_records_are_handled():
    model = small_model().train()
    inputs, labels = batch()
    inputs[0, :24, CELL] = model.config.pad_id  # nothing but the six asked-for records
    labels[1] = NO_LABEL
    inputs[1, :, CELL] = inputs[1, :, CELL].clamp(max=3)  # nothing asked for
    loss = model(inputs, attention_mask=(inputs[..., CELL] != model.config.pad_id).long(), labels=labels).loss
    loss.backward()
    assert loss.isfinite() and gradients(model).isfinite().all()
    assert model(inputs).logits.exp().sum(-1).allclose(torch.ones(6 + 3 + 5), atol=1e-5)


def test_nobody_asked_for_gives_empty_logits_and_a_zero_loss():
    model = small_model(router_aux_loss_coef=0.0)
    inputs, _ = batch()
    inputs[..., CELL] = 3
    assert model(inputs).logits.shape == (0, 120)
    assert model(inputs, labels=torch.full(inputs.shape[:2], NO_LABEL)).loss == 0


def test_other_rows_of_the_batch_and_padding_do_not_change_a_row():
    model = small_model().eval()
    inputs, _ = batch()
    together = model(inputs).logits[:6]
    assert torch.allclose(model(inputs[:1]).logits, together, atol=1e-5)


def test_inputs_embeds_stand_in_for_inputs():
    model = small_model().eval()
    inputs, labels = batch()
    embeds = model.model.embeddings(inputs, inputs[..., CELL] != model.config.pad_id)
    assert torch.allclose(model(inputs, inputs_embeds=embeds).logits, model(inputs).logits)
    asked = labels != NO_LABEL
    alone = model(inputs_embeds=embeds, labels=labels)
    assert alone.loss.isfinite()
    # Alone they have no history to score: what is left is the distribution over all cells.
    mask = torch.ones(labels.shape, dtype=torch.long)
    hidden = model.model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state[asked]
    expected = model.cell_head(hidden).gather(1, labels[asked][:, None]).mean()
    assert torch.allclose(-expected, alone.loss - model.config.router_aux_loss_coef * alone.aux_loss, atol=1e-5)


def test_router_logits_hidden_states_and_attentions_come_on_request():
    model = small_model().eval()
    model.set_attn_implementation("eager")
    inputs, _ = batch()
    output = model(inputs, output_router_logits=True, output_hidden_states=True, output_attentions=True)
    assert [tuple(layer.shape) for layer in output.router_logits] == [(120, 4)] * 2
    assert len(output.hidden_states) == 3 and len(output.attentions) == 2
    assert model(inputs).router_logits is None


def test_sparse_layers_are_those_that_the_configuration_names():
    model = small_model(num_hidden_layers=3, sparse_layers=[1])
    sparse = [hasattr(layer.intermediate, "router") for layer in model.model.encoder.layer]
    assert sparse == [False, True, False]
    inputs, labels = batch()
    assert model(inputs, labels=labels).expert_load.shape == (1, 4)


def test_perfect_balance_costs_top_k_and_collapse_costs_more():
    mask = torch.ones(2, 40, dtype=torch.long)
    even = torch.full((2, 40, 4), -20.0)
    for record in range(40):
        even[:, record, [record % 4, (record + 1) % 4]] = 20.0
    collapsed = torch.full((2, 40, 4), -20.0)
    collapsed[..., :2] = 20.0
    assert torch.allclose(balance((even,), mask, 2)[0], torch.full((2,), 2.0), atol=1e-4)
    loss, load = balance((collapsed,), mask, 2)
    assert torch.allclose(loss, torch.full((2,), 4.0), atol=1e-4)
    assert torch.allclose(load, torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
    # Opposite imbalances of two layers must not cancel.
    assert balance((collapsed, collapsed.flip(-1)), mask, 2)[0].mean() == pytest.approx(4.0, abs=1e-4)


def test_saved_and_loaded_models_are_equal(tmp_path):
    model = small_model().eval()
    inputs, _ = batch()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is STMoEBertForMobility
    assert torch.allclose(loaded(inputs).logits, model(inputs).logits, atol=1e-6)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    encoder = STMoEBertModel.from_pretrained(tmp_path).eval()
    assert torch.allclose(encoder(inputs).last_hidden_state, model.model(inputs).last_hidden_state, atol=1e-6)


def test_bad_inputs_are_refused_in_words():
    model = small_model(max_seq_length=20)
    inputs, _ = batch()
    with pytest.raises(ValueError, match="a row has 30 records; this model takes 20"):
        model(inputs)
    with pytest.raises(ValueError, match="inputs must be"):
        model(inputs[..., :5])
    with pytest.raises(ValueError, match="give inputs"):
        model()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"num_attention_heads": 5}, "hidden_size 32 cannot be shared among num_attention_heads 5"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok 5"),
        ({"sparse_layers": [2]}, "layers are 0..1"),
        ({"num_experts": 0, "sparse_layers": [0]}, "needs num_experts"),
        ({"history_head": False, "cell_head": False}, "both off"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"head_chunk_size": 0}, "head_chunk_size is 0; it must be at least 1"),
        ({"max_seq_length": 0}, "max_seq_length is 0; it must be at least 1"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size is 0; it must be at least 1"),
        ({"history_spread": -1}, "history_spread is -1; it must be at least 0"),
        ({"day_embedding_size": -8}, "day_embedding_size is -8; it must be at least 0"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes, said):
    with pytest.raises(Exception, match=said):
        STMoEBertConfig(**(SMALL | changes))


def test_published_names_of_the_sizes_are_understood():
    config = STMoEBertConfig(hidden_layers=3, attention_heads=8)
    assert (config.num_hidden_layers, config.num_attention_heads) == (3, 8)
    assert math.isclose(config.moe_intermediate_size * config.num_experts_per_tok, config.intermediate_size)
