"""The history head says of each pair of records what the formula says, however days and slots are shared."""

import math

import pytest
import torch
from torch.nn import functional as F

from stmoe_hf.model.configuration_stmoe_bert import STMoEBertConfig
from stmoe_hf.model.heads_stmoe_bert import (
    CLOCK_HARMONICS,
    FARTHEST_DAYS,
    KINDS_OF_DAY,
    SLOT_WIDTHS,
    STMoEBertHistoryHead,
)

T = 40


def pair(head, asked, known, query, key):
    """The score of one asked-for and one known record, as the docstring of the head has it."""
    day, slot, weekday, off = (int(number) for number in asked)
    h_day, h_slot, h_weekday, h_off = (int(number) for number in known)
    apart, days = abs(slot - h_slot), abs(day - h_day)
    apart = min(apart, head.num_slots - apart) / head.slots_per_trained_slot
    score = -head.slot_decay.exp() * apart - head.day_decay.exp() * days
    score = score + head.other_kind_of_day * (off != h_off) + head.same_weekday * (weekday == h_weekday)
    kind = 4 if off == h_off and weekday == h_weekday else 1 - off if off == h_off else 3 - off
    bucket = min(round(2 * math.log2(max(min(days, FARTHEST_DAYS - 1), 1))), head.num_day_buckets - 1)
    trained = [int((each + 0.5) / head.slots_per_trained_slot) for each in (slot, h_slot)]
    content = head.query(query) @ head.key(key) / math.sqrt(head.key.out_features)
    return score + head.relation(relation(head, *trained, bucket, kind))[0] + content + head.key_bias(key)[0]


def relation(head, slot, h_slot, bucket, kind):
    """What the relation network sees of two trained slots, how far their days are apart, and the kinds of these."""
    slots = head.trained_num_slots
    angles = [n * 2 * math.pi * each / slots for each in (slot, h_slot) for n in CLOCK_HARMONICS]
    apart = min(abs(slot - h_slot), slots - abs(slot - h_slot))
    near = [math.exp(-apart / width) for width in SLOT_WIDTHS]
    places = [float(place == bucket) for place in range(head.num_day_buckets)]
    return torch.tensor(
        [f(angle) for angle in angles for f in (math.sin, math.cos)]
        + near
        + places
        + [float(place == kind) for place in range(KINDS_OF_DAY)]
    )


def test_what_is_kept_of_the_relation_follows_every_change_of_a_weight():
    head = STMoEBertHistoryHead(STMoEBertConfig(hidden_size=8, num_attention_heads=2))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        first = head._relation_table()
        assert head._relation_table() is first
        for parameter in (head.slot_decay, *head.relation.parameters()):
            parameter.data += 0.1  # which autograd does not see
            torch.testing.assert_close(head._relation_table(), head._new_relation_table(), rtol=0, atol=0)
            assert head._relation_table() is not first
    assert head._relation_table().requires_grad


@pytest.mark.parametrize("num_slots", [48, 96])
def test_a_weight_is_that_of_the_formula_and_its_gradient_reaches_every_parameter(num_slots):
    torch.manual_seed(0)
    portable = {"location_embedding_size": 0, "day_embedding_size": 0, "cell_head": False}
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_slots": num_slots, "trained_num_slots": 48}
    config = STMoEBertConfig(**sizes, **portable)
    head = STMoEBertHistoryHead(config)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    columns = [torch.randint(size, (2, T)) for size in (20, num_slots, 7, 2)]
    inputs = torch.stack([*columns, torch.zeros(2, T).long(), torch.randint(99, (2, T))], dim=-1)
    inputs[:, -6:, -1] = config.mask_id
    inputs[1, :, -1] = config.mask_id  # who has no history
    hidden, mask = torch.randn(2, T, 8), torch.ones(2, T).long()
    asked = torch.arange(T - 6, T).expand(2, -1)
    found = head(inputs, hidden, asked, mask)
    of_record, states = inputs[0, :, :4], hidden[0]
    for q in range(6):
        here = T - 6 + q
        told = [pair(head, of_record[here], of_record[t], states[here], states[t]) for t in range(T - 6)]
        torch.testing.assert_close(found[0, q, :-6], F.log_softmax(torch.stack(told).flatten(), dim=0))
    assert torch.isneginf(found[0, :, -6:]).all() and torch.isneginf(found[1]).all()
    (found[0, :, :-6].exp() * torch.randn(6, T - 6)).sum().backward()
    for name, parameter in head.named_parameters():
        assert torch.isfinite(parameter.grad).all() and (name.endswith("key_bias.bias") or parameter.grad.any()), name
