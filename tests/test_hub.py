"""A run as a repository of the Hub: what is exported loads without the package, and uploads are all or nothing."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModel, AutoProcessor, pipeline

from stmoe_hf.arguments import parse_arguments
from stmoe_hf.hub import HubError, export, push
from stmoe_hf.training import run

from .hub_server import HubServer
from .people import people, write_city
from .test_training import NO_CELL_HEAD, SIZES

REPOSITORY = "org/stmoe-bert-cityB"

# Run where the package cannot be imported: loads the folder by its own code, and writes logits and predictions.
STRANGER = """
import sys
sys.modules["stmoe_hf"] = None
import pandas as pd, torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
folder, records, output = sys.argv[1:]
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "stmoe_bert"
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
table = pd.read_csv(records)
with torch.no_grad():
    logits = model(**processor(table[table["uid"] == 11])).logits
found = pipeline("mobility-prediction", model=folder, trust_remote_code=True)(table, top_k=2)
found.to_csv(output, index=False)
print(type(model).__name__, type(processor).__name__)
torch.save(logits, output + ".pt")
"""


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return people(masked=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    data = write_city(folder / "data", masked=2)
    options = ["--city", "B", "--data_dir", str(data), "--cache_dir", str(folder / "cache"), *SIZES, *NO_CELL_HEAD]
    options += ["--output_dir", str(folder / "run"), "--num_train_epochs", "1", "--eval_fraction", "0.4"]
    run(*parse_arguments(options))
    return folder / "run"


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory) -> Path:
    return export(finished, tmp_path_factory.mktemp("export") / "model", REPOSITORY)


@pytest.fixture
def server(monkeypatch):
    with HubServer() as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", running.token)
        yield running
        running.shutdown()


def test_a_stranger_without_the_package_loads_the_folder_and_predicts(exported, records, tmp_path):
    records.to_csv(tmp_path / "records.csv", index=False)
    command = [sys.executable, "-c", STRANGER, str(exported), str(tmp_path / "records.csv"), str(tmp_path / "out.csv")]
    environment = {"PATH": "", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-2:] == ["STMoEBertForMobility", "MobilityProcessor"]
    model, processor = AutoModel.from_pretrained(exported).eval(), AutoProcessor.from_pretrained(exported)
    with torch.no_grad():
        ours = model(**processor(records[records["uid"] == 11])).logits
    assert torch.allclose(torch.load(tmp_path / "out.csv.pt"), ours, atol=1e-6)
    here = pipeline("mobility-prediction", model=str(exported), trust_remote_code=True)(records, top_k=2)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out.csv"), here, check_dtype=False, atol=1e-6)


def test_the_pipeline_gives_every_asked_for_record_and_its_probabilities(exported, records):
    predict = pipeline("mobility-prediction", model=str(exported), trust_remote_code=True)
    table = predict(records.sample(frac=1, random_state=0), top_k=3, batch_size=1)
    asked = records[records["x"] == 999]
    best = table[table["rank"] == 1]
    assert (best[["uid", "d", "t"]].to_numpy() == asked[["uid", "d", "t"]].to_numpy()).all()
    assert table[["x", "y"]].to_numpy().min() >= 1
    assert table["probability"].between(0, 1).all()
    assert not table.duplicated(["uid", "d", "t", "x", "y"]).any()
    by_mode = predict(records, top_k=3, decoder="mode")
    falling = by_mode.groupby(["uid", "d", "t"])["probability"].apply(lambda p: (np.diff(p) <= 1e-7).all())
    assert falling.all()
    pd.testing.assert_frame_equal(predict(records, top_k=3), table, atol=1e-5)


def test_the_pipeline_refuses_what_it_cannot_do(exported, records):
    predict = pipeline("mobility-prediction", model=str(exported), trust_remote_code=True)
    with pytest.raises(ValueError, match="no record is asked for"):
        predict(records[records["x"] != 999])
    with pytest.raises(ValueError, match="lacks the columns"):
        predict(records.drop(columns="t"))
    with pytest.raises(ValueError, match="a pipeline has mode, geobleu"):
        predict(records, decoder="day")


def test_the_card_is_written_from_the_run(finished, exported):
    text = (exported / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---")[1])
    results = json.loads((finished / "all_results.json").read_text())
    metrics = {m["name"]: m["value"] for r in metadata["model-index"][0]["results"] for m in r["metrics"]}
    assert metrics["GEO-BLEU, edition humob2024"] == results["test_humob2024_geobleu"]
    assert metrics["DTW (km), edition humob2025"] == results["test_humob2025_dtw"]
    assert "| baseline weekday_slot_mode |" in text
    for word in ("re-identify", "License", "Citation", "humob2024", "4 held-out users", "Seed 42"):
        assert word.lower() in text.lower(), word
    for secret in (str(finished), str(Path.home())):
        assert secret not in text


def test_an_export_is_refused_over_a_folder_that_holds_something(finished, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        export(finished, tmp_path / "full", REPOSITORY)
    with pytest.raises(FileNotFoundError, match=re.escape("it has no config.json")):
        export(tmp_path, tmp_path / "new", REPOSITORY)
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_an_upload_brings_exactly_the_exported_files(server, finished, exported):
    assert push(finished, REPOSITORY, private=True) == f"{server.url}/{REPOSITORY}"
    assert server.repositories == {REPOSITORY: True}
    assert server.commits == 1
    local = {p.name: p.read_bytes() for p in exported.iterdir()}
    assert server.files.keys() == local.keys()
    assert server.files == local


def test_a_wrong_token_is_said_and_never_shown(server, finished, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="give a token that may write there") as raised:
        push(finished, REPOSITORY)
    assert "hf_wrong" not in str(raised.value)
    assert not server.files


def test_a_broken_connection_publishes_nothing_and_a_second_try_goes_on(server, finished):
    server.failures = 10
    with pytest.raises(HubError, match="nothing was published, try again"):
        push(finished, REPOSITORY)
    assert not server.files
    assert server.uploads  # the weights are there already and are not sent again
    server.failures = 0
    push(finished, REPOSITORY)
    assert "model.safetensors" in server.files


def test_an_unreachable_hub_is_said(finished, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="could not be reached"):
        push(finished, REPOSITORY, token="hf_any")
