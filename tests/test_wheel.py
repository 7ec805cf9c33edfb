"""The wheel, installed where there is no checkout: the whole package, its configurations and the command `stmoe`."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from .helpers import ROOT

pytestmark = pytest.mark.slow
FOUND = """
import json, stmoe_hf
from stmoe_hf.training.config_files import config_names
print(json.dumps([config_names(), stmoe_hf.metrics.METRIC]))
"""


def call(*command: str | Path, where: Path) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=where, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(python: Path, *words: str | Path, where: Path = ROOT) -> None:
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    call(sys.executable, "-m", "pip", "--python", python, *words, *options, where=where)


def environment(folder: Path) -> Path:
    """A new environment that has what the package needs from this one, but not the package; returns its Python."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    packages = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", where=folder)
    # A path in a .pth is added, the .pth files in it are not read: an editable stmoe_hf there stays unseen.
    Path(packages.strip(), "what_it_needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what git knows of, so that no other file of this machine gets in."""
    folder = tmp_path_factory.mktemp("source")
    for name in call("git", "ls-files", "--cached", "--others", "--exclude-standard", where=ROOT).splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--quiet")
    call(sys.executable, "-m", "pip", "wheel", source, "-w", folder, *options, where=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of the programs of an environment with the wheel."""
    python = environment(tmp_path_factory.mktemp("environment"))
    pip(python, "install", wheel)
    return python.parent


def test_every_file_is_in_the_wheel_once(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "stmoe_hf").rglob("*.py")}
    sources |= {f"stmoe_hf/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert {name for name in names if ".dist-info/" not in name} >= sources | {"stmoe_hf/py.typed"}
    assert len(names) == len({*names}) and not [name for name in names if name.startswith(("tests", "configs"))]


def test_from_another_folder_a_city_is_made_trained_on_and_predicted(installed, tmp_path):
    stmoe, python = installed / "stmoe", installed / "python"
    assert "usage: stmoe COMMAND" in call(stmoe, where=tmp_path)
    assert call(python, "-m", "stmoe_hf", "--version", where=tmp_path) == call(stmoe, "--version", where=tmp_path)
    call(stmoe, "synthesize", "--city", "B", "--users", "6", "--masked", "2", "--output_dir", "data", where=tmp_path)
    here = "--city B --data_dir data --cache_dir cache".split()
    small = "--config demo --max_steps 2 --validation_users 0 --use_cpu true --disable_tqdm true".split()
    call(python, "-m", "stmoe_hf.training", *here, *small, where=tmp_path)
    call(stmoe, "predict", "--model", "runs/cityB", *here, "--output", "p.csv.gz", "--device", "cpu", where=tmp_path)
    assert pd.read_csv(tmp_path / "p.csv.gz")["uid"].nunique() == 2
    assert "settings:" in call(stmoe, "train", "--help", where=tmp_path)


def test_configurations_and_the_metric_are_found_in_the_wheel(installed, tmp_path):
    refuse_missing_files(installed / "python", tmp_path)
    code = "import importlib.resources as r; print(*(p.name for p in r.files('stmoe_hf.configs').iterdir()))"
    assert "history.yaml" in call(installed / "python", "-c", code, where=tmp_path).split()


def test_configurations_and_the_metric_are_found_in_a_checkout_that_is_installed_in_place(source, tmp_path):
    python = environment(tmp_path / "environment")
    pip(python, "install", "--editable", source)
    refuse_missing_files(python, tmp_path)


def refuse_missing_files(python: Path, where: Path) -> None:
    names, metric = json.loads(call(python, "-c", FOUND, where=where))
    assert {"history", "demo", "accelerate/multi_gpu"} <= {*names}
    assert (Path(metric) / "humob.py").is_file()
