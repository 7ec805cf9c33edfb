"""The app as a Space: what is uploaded starts the same app where the package is not installed."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request

import pytest
import yaml

from stmoe_hf.__main__ import main
from stmoe_hf.hub.space import export_space, requirements

pytest.importorskip("gradio")
SPACE = "org/where-will-they-be"


def test_a_dry_run_writes_exactly_what_is_uploaded(server, tmp_path, capsys):
    assert main(["push", "--space", SPACE, "--dry_run", str(tmp_path / "dry")]) == 0
    assert str(tmp_path / "dry") in capsys.readouterr().out and not server.repositories
    assert main(["push", "--space", SPACE, "--private"]) == 0
    assert f"the app is at {server.url}/spaces/{SPACE}" in capsys.readouterr().out
    assert server.repositories == {SPACE: True} and server.sdks == {SPACE: "gradio"} and server.commits == 1
    written = {p.relative_to(tmp_path / "dry").as_posix(): p.read_bytes() for p in (tmp_path / "dry").rglob("*.*")}
    assert server.files == {name: content for name, content in written.items() if (tmp_path / "dry" / name).is_file()}
    assert {"app.py", "requirements.txt", "README.md", "stmoe_hf/pretrained/model.safetensors"} <= server.files.keys()
    assert not [name for name in server.files if name.endswith(".pyc")]


def test_the_card_says_what_the_hub_has_to_know(tmp_path):
    text = (export_space(tmp_path / "space", SPACE, "org/model") / "README.md").read_text()
    _, metadata, _ = text.split("---\n")
    said = yaml.safe_load(metadata)
    assert said["sdk"] == "gradio" and said["app_file"] == "app.py" and said["title"] == "where-will-they-be"
    assert said["models"] == ["org/model"] and "--model', 'org/model'" in (tmp_path / "space" / "app.py").read_text()


def test_the_app_needs_its_extra_and_nothing_of_the_others():
    names = {line.partition(">")[0] for line in requirements()}
    assert {"torch", "transformers", "gradio", "plotly"} <= names and not names & {"pytest", "geopandas", "mypy"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--space", SPACE, "--model", "runs/cityB"], None),
        (["--space", SPACE, "--model", "."], "a Space cannot read ., which is no name on the Hub"),
        (["--space", SPACE, "--model", "./run"], "publish the model first"),
        (
            ["--space", SPACE, "--repo_id", "org/model"],
            "then the app with --space org/where-will-they-be",
        ),
        (["--space", "name"], "give the name as ORG/NAME"),
        (["--space", "a/b/c"], "a/b/c"),
        (["--repo_id", "org/model"], "say what to publish"),
        (["--model", "runs/cityB"], "say what to publish"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(options, said, tmp_path, capsys):
    status = main(["push", *options, "--dry_run", str(tmp_path / "dry")])
    if said is None:  # a folder of this name is not there: it may be a name of the Hub
        assert status == 0
        return
    assert status == 1 and not (tmp_path / "dry").exists()
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.slow
def test_the_space_starts_where_the_package_is_not_installed(tmp_path):
    folder = export_space(tmp_path / "space", SPACE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = (folder / "app.py").read_text().replace("7860", str(port))
    (folder / "app.py").write_text(app)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {sysconfig.get_path('purelib')!r}]; exec(open('app.py').read())"
    )
    command = [sys.executable, "-S", "-c", code]  # -S: an editable installation is not found
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)
        try:
            config = None
            for _ in range(240):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/config") as answer:
                        config = json.load(answer)
                    break
                except OSError:
                    assert running.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.5)
            assert config is not None and config["title"] == "Where will they be?"
        finally:
            running.kill()
            running.wait()
