"""`import stmoe_hf` is light, and transformers knows our classes whatever is imported first."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import stmoe_hf

from .helpers import ROOT

KNOWN = """
import stmoe_hf
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY

for kind in ("stmoe_bert", "mobility_bert", "mobility_bert_moe"):
    config = AutoConfig.for_model(kind)
    assert type(config).__module__.startswith("stmoe_hf.model.") and config._auto_class == "AutoConfig"
    network = AutoModel._model_mapping[type(config)]
    assert network.__module__.startswith("stmoe_hf.model.") and network._auto_class == "AutoModel"
    assert PROCESSOR_MAPPING[type(config)] is stmoe_hf.MobilityProcessor
assert PIPELINE_REGISTRY.check_task("mobility-prediction")[1]["impl"] is stmoe_hf.MobilityPipeline
"""
ORDERS = [
    *("import transformers", "from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline"),
    *(
        f"import stmoe_hf; from transformers import {name}"
        for name in ("AutoConfig", "AutoModel", "AutoProcessor", "pipeline", "Trainer", "BertModel", "ProcessorMixin")
    ),
    *(f"from stmoe_hf import {name}" for name in ("STMoEBertConfig", "STMoEBertModel", "MobilityPipeline")),
    "from stmoe_hf.model.pipeline_stmoe_bert import MobilityPipeline",
    "from stmoe_hf.model.modeling_mobility_bert import MobilityBERT",
]


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_transformers_knows_our_classes_in_every_order_of_imports():
    with ThreadPoolExecutor(2) as pool:
        outcomes = pool.map(lambda order: python(order + KNOWN), ORDERS)
    assert {order: done.stderr for order, done in zip(ORDERS, outcomes, strict=True) if done.returncode} == {}


def test_transformers_knows_our_classes_after_an_import_in_the_middle_of_which_its_auto_classes_are_imported():
    done = python("import stmoe_hf; from transformers import BertModel" + KNOWN)
    assert not done.returncode, done.stderr


def test_the_help_of_commands_imports_neither_torch_nor_transformers():
    lines = ["import sys", "from stmoe_hf.__main__ import COMMANDS, main"]
    lines += ["for name in {*COMMANDS} - {'train', 'convert'}:"]  # whose options are fields of heavy classes
    lines += ["    try: main([name, '--help'])", "    except SystemExit: pass"]
    lines += ["    assert not {'torch', 'transformers'} & {*sys.modules}, name"]
    done = python("\n".join(lines))
    assert not done.returncode, done.stderr


def test_the_package_and_its_help_import_neither_torch_nor_transformers():
    start = time.monotonic()
    done = python(
        "import sys, stmoe_hf, stmoe_hf.__main__ as stmoe; stmoe.main(['--help'])\n"
        "print({'torch', 'transformers', 'numpy', 'pandas'} & {*sys.modules})"
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
    assert time.monotonic() - start < 3  # 0.1 s on an idle machine


def test_what_is_public_is_there_and_nothing_else_is():
    for name in stmoe_hf.__all__:
        assert getattr(stmoe_hf, name) is not None
    assert stmoe_hf.metrics.METRIC
    assert {*stmoe_hf.__all__} <= {*dir(stmoe_hf)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stmoe_hf.nothing
