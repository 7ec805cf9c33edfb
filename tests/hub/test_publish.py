"""A run as a repository of the Hub: what is exported loads without the package, and uploads are all or nothing."""

import importlib.util
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
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

import stmoe_hf
from stmoe_hf.__main__ import main as stmoe
from stmoe_hf.hub.publish import _command, _on_the_hub, card, export, push
from stmoe_hf.hub.upload import HubError
from stmoe_hf.model.spacetime import Calendar, Grid
from stmoe_hf.report.evidence import Evidence
from stmoe_hf.report.pictures import people_by_square
from stmoe_hf.report.places import Places
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import run
from stmoe_hf.training.run_record import without_tokens

from ..helpers import REPOSITORY, people

PUBLISHED = (
    "--hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2 --location_embedding_size 4 --use_cpu true"
    " --disable_tqdm true --decoder mode --input_seq_length 40 --predict_seq_length 10 --look_back_len 25"
    " --max_steps 2 --eval_users 2 --eval_strategy steps --save_strategy steps --eval_steps 2 --save_steps 2"
    " --report false"
).split()

# Run where only torch, transformers, numpy and pandas can be imported: loads folders by their own code, and writes the
# logits of each, and the predictions of the pipeline of the first.
STRANGER = """
import sys
for name in ("stmoe_hf", "numba", "pyarrow", "datasets", "accelerate", "evaluate", "tqdm.auto", "matplotlib"):
    sys.modules[name] = None
sys.modules.pop("tqdm.auto")
import pandas as pd, torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
records, output, *folders = sys.argv[1:]
table = pd.read_csv(records)
found = {}
for folder in folders:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        logits = model(**processor(table[table["uid"] == 11])).logits
    found[folder] = (*(type(part).__name__ for part in (config, model, processor)), logits)
    assert type(model).__module__.startswith("transformers_modules")
torch.save(found, output + ".pt")
predict = pipeline("mobility-prediction", model=folders[0], trust_remote_code=True)
predict(table, top_k=2).to_csv(output, index=False)
assert len(predict.predict_trajectory([(0, 1, 5, 5), (1, 1, 5, 6)], [(2, 1), (2, 2)])) == 2
"""


@pytest.fixture(scope="module")
def published(finished, tmp_path_factory) -> list[Path]:
    """Runs of the two published networks."""
    folders = []
    for name in ("MobilityBERT", "MobilityBERTMoE"):
        folders.append(tmp_path_factory.mktemp("published") / name)
        options = ["--city", "B", "--data_dir", str(finished.parent / "data"), "--model_name", name, *PUBLISHED]
        run(*parse_arguments([*options, "--output_dir", str(folders[-1])]))
    return folders


def test_every_folder_and_checkpoint_loads_alike_with_the_package_and_by_a_stranger_without_it(
    exported, finished, published, records, tmp_path
):
    folders = [exported]
    for run_folder in (finished, *published):
        checkpoints = sorted(run_folder.glob("checkpoint-*"))
        assert checkpoints
        folders += [run_folder, *checkpoints]
    assert len(folders) == 8
    records.to_csv(tmp_path / "records.csv", index=False)
    command = [sys.executable, "-c", STRANGER, "records.csv", "out.csv", *map(str, folders)]
    environment = {"PATH": "", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = torch.load(tmp_path / "out.csv.pt")
    for folder in folders:
        config, processor = AutoConfig.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder).eval()
        *names, logits = theirs[str(folder)]
        assert names == [type(part).__name__ for part in (config, model, processor)]
        assert type(model).__module__.startswith("stmoe_hf.")
        with torch.no_grad():
            ours = model(**processor(records[records["uid"] == 11])).logits
        assert torch.allclose(logits, ours, atol=1e-6), folder
    assert {theirs[str(folder)][1] for folder in folders} == {
        "STMoEBertForMobility",
        "MobilityBERT",
        "MobilityBERTMoE",
    }
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
    # The first is the decoder's; of the others none is more probable than one of a lower rank.
    for ranked in (predict(records, top_k=3, decoder="mode"), table[table["rank"] > 1]):
        falling = ranked.groupby(["uid", "d", "t"])["probability"].apply(lambda p: (np.diff(p) <= 1e-7).all())
        assert falling.all()
    pd.testing.assert_frame_equal(predict(records, top_k=3), table, atol=1e-5)


def test_of_a_person_without_a_past_a_network_without_a_cell_head_knows_the_centre_of_the_grid(exported):
    predict = pipeline("mobility-prediction", model=str(exported), trust_remote_code=True)
    asked = pd.DataFrame({"uid": 1, "d": [60, 61], "t": 20, "x": 999, "y": 999})
    known = pd.DataFrame({"uid": 2, "d": [1, 2, 60], "t": 20, "x": [7, 7, 999], "y": [9, 9, 999]})
    table = predict(pd.concat([asked, known]), top_k=2)
    stranger = table[table["uid"] == 1]
    assert stranger[["x", "y", "rank"]].to_numpy().tolist() == [[100, 100, 1]] * 2
    assert np.allclose(stranger["probability"], 1 / 40000)
    assert table[table["uid"] == 2].iloc[0][["x", "y"]].tolist() == [7, 9]


def test_the_pipeline_refuses_what_it_cannot_do(exported, records):
    predict = pipeline("mobility-prediction", model=str(exported), trust_remote_code=True)
    with pytest.raises(ValueError, match="no record is asked for"):
        predict(records[records["x"] != 999])
    with pytest.raises(ValueError, match="lacks the columns"):
        predict(records.drop(columns="t"))
    with pytest.raises(ValueError, match="a pipeline has mode, geobleu"):
        predict(records, decoder="best")
    with pytest.raises(ValueError, match="samples are whole drawn days"):
        predict(records, samples=3, top_k=2)
    predict.days_module = None  # as where the package is not imported
    with pytest.raises(ValueError, match="drawn days are in the package: import stmoe_hf"):
        predict(records, decoder="day")
    with pytest.raises(ValueError, match="city is 'Z'; the cities of this model are humob2024-B"):
        predict(records, city="Z")


def test_the_pipeline_plans_the_days_that_the_command_plans(finished, records, tmp_path):
    planned = pipeline("mobility-prediction", model=str(finished))(records, decoder="day", top_k=2)
    records.to_csv(tmp_path / "city.csv", index=False)
    source = {"data_path": tmp_path / "city.csv", "cache_dir": tmp_path / "cache"}
    told = stmoe_hf.predict(finished, **source, decoder="day", device="cpu")
    first = planned[planned["rank"] == 1].reset_index(drop=True)
    assert (first[["uid", "d", "t", "x", "y"]].to_numpy() == told.to_numpy()).all()
    assert planned["rank"].max() == 2


def test_the_pipeline_draws_whole_days(finished, records):
    predict = pipeline("mobility-prediction", model=str(finished))
    drawn = predict(records, samples=4)
    asked = records[records["x"] == 999]
    assert list(drawn.columns) == ["uid", "d", "t", "sample", "x", "y"]
    assert len(drawn) == 4 * len(asked) and drawn["sample"].nunique() == 4
    # Cells are drawn by their probability, from the places of the past.
    past = records.loc[records["x"] != 999, ["uid", "x", "y"]].drop_duplicates()
    assert len(drawn.merge(past, on=["uid", "x", "y"])) == len(drawn)
    spread = drawn.groupby(["uid", "d", "t"])[["x", "y"]].nunique().max(axis=None)
    assert spread > 1
    pd.testing.assert_frame_equal(predict(records, samples=4), drawn)


def test_a_pipeline_without_a_name_takes_the_weights_of_the_package(records, tmp_path):
    predict = pipeline("mobility-prediction")
    assert predict.model.config.trained_alone
    table = predict(records, decoder="mode")
    assert table["probability"].between(0, 1).all()
    predict.save_pretrained(tmp_path)
    assert str(Path(stmoe_hf.__file__).parent) not in (tmp_path / "config.json").read_text()


def test_one_person_is_predicted_from_a_list(exported, records):
    predict = pipeline("mobility-prediction", model=str(exported), trust_remote_code=True)
    person = records[records["uid"] == 11]
    asked = person["x"] == 999
    history, slots = person.loc[~asked, ["d", "t", "x", "y"]], person.loc[asked, ["d", "t"]]
    table = predict.predict_trajectory(history.to_numpy().tolist(), slots.to_numpy().tolist(), top_k=2)
    assert list(table.columns) == ["d", "t", "rank", "x", "y", "probability"]
    expected = predict(person, top_k=2).drop(columns="uid")
    pd.testing.assert_frame_equal(table, expected, check_dtype=False, atol=1e-6)
    pd.testing.assert_frame_equal(predict.predict_trajectory(history, slots, top_k=2), table)


def test_a_pipeline_is_told_the_city_and_how_much_history_to_read(exported, records):
    predict = pipeline("mobility-prediction", model=str(exported), trust_remote_code=True)
    torch.nn.init.normal_(predict.model.gate.weight)
    unknown, known = predict(records), predict(records, city="humob2024-B")
    assert np.allclose(unknown["probability"], known["probability"])  # of one known city the mean is its own
    predict.model.add_cities(["elsewhere"])
    torch.nn.init.normal_(predict.model.model.embeddings.city.weight)
    unknown, known = predict(records), predict(records, city="humob2024-B")
    assert not np.allclose(unknown["probability"], known["probability"])
    recent = pd.concat([p[p["x"] != 999].tail(20) for _, p in records.groupby("uid")] + [records[records["x"] == 999]])
    pd.testing.assert_frame_equal(predict(records, input_seq_length=20), predict(recent), atol=1e-6)


def test_the_pipeline_of_a_published_network_predicts(published, records):
    predict = pipeline("mobility-prediction", model=str(published[1]), processor=str(published[1]))
    table = predict(records, input_seq_length=40, top_k=2)
    assert len(table) == 2 * (records["x"] == 999).sum()


def test_the_card_is_written_from_the_run(finished, exported):
    text = (exported / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---")[1])
    results = json.loads((finished / "all_results.json").read_text())
    metrics = {m["name"]: m["value"] for r in metadata["model-index"][0]["results"] for m in r["metrics"]}
    assert metrics["GEO-BLEU, edition humob2024"] == results["test_humob2024_geobleu"]
    assert metrics["DTW (km), edition humob2025"] == results["test_humob2025_dtw"]
    assert "| baseline weekday_slot_mode |" in text
    assert len(metrics) == 4
    command = text.split("## Training")[1].split("```")[1].replace("\\\n", " ")
    model_args, data_args, run_args = parse_arguments(command.split()[4:])  # accelerate launch -m stmoe_hf.training
    record = json.loads((finished / "run.json").read_text())
    assert model_args.config_values() | {"city_embedding": True} == {
        name: value for name, value in record["model"].items() if value not in (None, "STMoEBert", "keep")
    }
    assert (data_args.city, data_args.test_fraction, run_args.learning_rate) == ("B", 0.4, 5e-3)
    record["data"] |= {"max_users": 9, "min_horizon_days": 3}
    record["training"] |= {"distance_weight": 0.02, "num_candidates": 64, "lr_scheduler_type": "cosine"}
    for setting in ("max_users 9", "min_horizon_days 3", "distance_weight 0.02", "num_candidates 64", "type cosine"):
        assert f"{setting} " in _command(record, "B") and f"{setting} " not in command, setting
    assert "min_history_days" not in _command(record, "B")  # as it always is
    now = _command(record, "B")
    record["data"]["eval_fraction"] = record["data"].pop("test_fraction")  # as it was called earlier
    record["training"]["eval_users"] = record["training"].pop("validation_users")
    assert sorted(_command(record, "B").split(" --")) == sorted(now.split(" --"))
    words = ("re-identify", "License", "Licence", "Citation", "2410.14099", "humob2024", "4 held-out users", "Seed 42")
    for word in words:
        assert word.lower() in text.lower(), word
    for secret in (str(finished), str(Path.home())):
        assert secret not in text


def test_the_card_names_the_data_sets_of_the_hub_that_it_is_told(finished, exported, tmp_path, capsys):
    results, record = (json.loads((finished / name).read_text()) for name in ("all_results.json", "run.json"))
    text = str(card(results, record, AutoModel.from_pretrained(finished), "org/name", ["org/walks"]))
    assert yaml.safe_load(text.split("---")[1])["datasets"] == ["org/walks"]
    assert "datasets" not in yaml.safe_load((exported / "README.md").read_text().split("---")[1])
    capsys.readouterr()
    options = ["push", "--model", str(finished), "--repo_id", "org/name", "--dry_run", str(tmp_path / "out")]
    assert stmoe([*options, "--datasets", "my walks"]) == 1 and not (tmp_path / "out").exists()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and "my walks" in said[0]


def test_the_card_shows_pictures_of_the_report_and_nobody_s_path(exported, finished):
    text = (exported / "README.md").read_text()
    pictures = {path.name for path in exported.glob("*.png")}
    assert {"errors.png", "probabilities.png"} <= pictures
    assert set(re.findall(r"^!\[.*\]\((.*)\)$", text, flags=re.MULTILINE)) == pictures
    assert "city.png" not in pictures  # of the four people held out no square has ten


def test_squares_of_few_people_are_on_no_picture():
    truth = people(users=40, seed=3)
    truth = truth.assign(x=truth["x"] % 10 + 51, y=truth["y"] % 10 + 51)  # all in four squares, ...
    truth = truth.assign(x=truth["x"].where(truth["uid"] != 0, 190))  # ... but one person, where nobody else is
    predicted = truth[truth["d"] >= 60].assign(probability=np.nan)
    place = Places(predicted.assign(weight=1.0))
    evidence = Evidence("city", Grid(), Calendar(), None, predicted, place, truth[truth["d"] >= 60])
    table, side = people_by_square(evidence)
    assert len(table) and (table["forecast"] == table["truth"]).all()
    squares = predicted.assign(square_x=(predicted["x"] - 1) // side + 1, square_y=(predicted["y"] - 1) // side + 1)
    there = squares.groupby(["square_x", "square_y"])["uid"].nunique()
    assert {*zip(table["x"], table["y"], strict=True)} == {*there[there >= 10].index} and there.min() < 10


def test_without_matplotlib_the_card_has_no_pictures(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = export(finished, tmp_path / "model", REPOSITORY)
    assert not list(folder.glob("*.png")) and ".png" not in (folder / "README.md").read_text()


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


def command_line(monkeypatch, capsys, *argv: str) -> tuple[int, str]:
    """Exit status, and all that was printed, of push_to_hub.py."""
    path = Path(__file__).parents[2] / "push_to_hub.py"
    spec = importlib.util.spec_from_file_location("push_to_hub", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", [str(path), *argv])
    status = script.main()
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def test_a_dry_run_writes_exactly_what_is_uploaded(server, finished, exported, tmp_path, monkeypatch, capsys):
    options = ("--model", str(finished), "--repo_id", REPOSITORY)
    status, printed = command_line(monkeypatch, capsys, *options, "--dry_run", str(tmp_path / "dry"))
    assert status == 0 and str(tmp_path / "dry") in printed and not server.repositories
    status, printed = command_line(monkeypatch, capsys, *options)
    assert status == 0 and f"{server.url}/{REPOSITORY}" in printed
    assert server.repositories == {REPOSITORY: False}
    assert server.files == {path.name: path.read_bytes() for path in (tmp_path / "dry").iterdir()}
    for name, content in server.files.items():
        assert server.token.encode() not in content, name


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ({"token": "hf_other"}, "give a token that may write there"),
        ({"status": 403}, "give a token that may write there"),
        ({"status": 503}, "answered 503 to the upload"),
        ({"failures": 10}, "nothing was published, try again"),
        ({"broken_uploads": 10}, "nothing was published, try again"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line_publishes_nothing_and_shows_no_token(
    server, finished, monkeypatch, capsys, caplog, trouble, said
):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    for name, value in trouble.items():
        setattr(server, name, value)
    status, printed = command_line(monkeypatch, capsys, "--model", str(finished), "--repo_id", REPOSITORY)
    assert status == 1 and not server.files
    error = printed.rpartition("error: ")[2]  # after the progress of the upload
    assert said in error and error.count("\n") == 1 and "Traceback" not in printed
    assert "hf_right" not in printed + caplog.text and "hf_other" not in printed + caplog.text


def test_a_second_try_goes_on_where_a_broken_one_ended(server, finished):
    server.failures = 10
    with pytest.raises(HubError, match="nothing was published, try again"):
        push(finished, REPOSITORY)
    assert not server.files and server.sent == 1
    server.failures = 0
    push(finished, REPOSITORY)
    assert "model.safetensors" in server.files and server.sent == 1  # the weights were there: not sent again


def test_a_name_that_no_repository_can_have_is_said_and_not_taken_for_an_unreachable_hub(
    finished, monkeypatch, capsys
):
    status, printed = command_line(monkeypatch, capsys, "--model", str(finished), "--repo_id", "a/b/c")
    assert status == 1 and "a/b/c" in printed and "could not be reached" not in printed


def test_an_unreachable_hub_is_said(finished, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="could not be reached"):
        push(finished, REPOSITORY, token="hf_any")


def test_a_token_on_the_command_line_of_a_run_is_not_written_down():
    command = ["train_hf.py", "--hub_token", "hf_secret", "--city", "B", "--hub_token=hf_secret"]
    assert without_tokens(command) == ["train_hf.py", "--hub_token", "...", "--city", "B", "--hub_token=..."]


def test_only_a_model_that_others_can_find_is_named_as_the_one_that_training_started_from(tmp_path):
    assert _on_the_hub("org/model") == "org/model"
    assert [_on_the_hub(model) for model in (None, str(tmp_path), "./runs/cityA", "pretrained")] == [None] * 4
