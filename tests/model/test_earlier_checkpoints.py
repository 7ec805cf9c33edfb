"""Checkpoints written before the package was divided into rooms: they load, and predict the same."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from stmoe_hf import MobilityProcessor, STMoEBertForMobility

from ..helpers import ROOT

CHECKPOINTS = ROOT / "tests" / "fixtures" / "checkpoints_0.1"
FLOAT = {"rtol": 0, "atol": 2e-6}  # another machine may sum in another order


@pytest.mark.parametrize("kind", ["portable", "cells"])
def test_an_earlier_checkpoint_predicts_what_it_did(kind):
    folder = CHECKPOINTS / kind
    model = AutoModel.from_pretrained(folder).eval()
    assert isinstance(model, STMoEBertForMobility)
    assert isinstance(AutoProcessor.from_pretrained(folder), MobilityProcessor)
    outputs = {name: torch.from_numpy(value) for name, value in np.load(folder / "outputs.npz").items()}
    batch = {name: outputs[name] for name in ("inputs", "attention_mask", "city") if name in outputs}
    with torch.no_grad():
        some, everything = model(**batch, num_candidates=8), model(**batch)
    assert torch.equal(some.candidates, outputs["candidates"])
    torch.testing.assert_close(some.logits, outputs["candidate_logits"], **FLOAT)
    torch.testing.assert_close(everything.logits[:40], outputs["all_logits"], **FLOAT)


@pytest.mark.parametrize("kind", ["portable", "cells"])
def test_a_seed_gives_the_same_new_weights_under_the_same_names(kind):
    config = AutoConfig.from_pretrained(CHECKPOINTS / kind)
    torch.manual_seed(3)
    sums = {name: float(w.double().abs().sum()) for name, w in STMoEBertForMobility(config).state_dict().items()}
    assert sums == pytest.approx(json.loads((CHECKPOINTS / kind / "fresh_weights.json").read_text()), rel=1e-12)
