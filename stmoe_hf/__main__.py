"""The command `stmoe`: `stmoe COMMAND --help` (`python -m stmoe_hf` is the same)."""

import argparse
import difflib
import importlib
import logging
import os
import pkgutil
import sys

from . import __version__, commands

# What a person wants -> command -> what it does. A command is the module of its name (_ for -) in stmoe_hf.commands,
# with `add_arguments(parser)` and `run(args)`, or with a `main(argv)` that has a help of its own. It is imported only
# when it is called, and shown as soon as it is there.
GROUPS = {
    "forecast and predict": {
        "forecast": "say where people will be in the days to come, from records or GPS points",
        "next": "rank the places that people go to next, of cells or of ids without geometry",
        "predict": "predict the records that a file asks for with a saved model: a submission",
        "locate": "give records or predictions latitude, longitude and time: GeoJSON or csv",
    },
    "train": {
        "train": "train on a city or fine-tune on it, predict and score",
        "demo": "a generated city: zero-shot, then fine-tuned, beside counting, in minutes",
    },
    "data": {
        "gps": "turn GPS points (csv, parquet, GeoLife) into the records of a city of any grid",
        "field": "count a city's cells: what may be given away of a city, for --field",
        "poi": "count points of OpenStreetMap by cell of a city: the file that --poi takes",
        "partition": "turn records or points in any order into parquet by person, for --engine",
        "prepare": "read, check and store a city of any size, so that runs open it at once",
        "synthesize": "write a generated city of any size in the format of an edition",
        "export": "write a city as a dataset for the Hub: parquet and a card",
    },
    "scores": {
        "score": "score predicted records against the true ones: GEO-BLEU, DTW and accuracy",
        "backtest": "forecast the last days of people's past and score it beside counting",
        "validate": "check a submission as the organisers do; the first wrong line of each kind",
    },
    "look": {
        "report": "write a page of maps, people, scores and errors of predictions",
        "crowds": "count how many people are where and when",
        "flows": "count how many people go from where to where",
        "app": "look at forecasts in the browser",
    },
    "publish": {
        "push": "publish a run on the Hub (model, code, pipeline, card), or the app as a Space",
        "export-model": "write a network as one file for torch.export or ONNX, which needs no stmoe_hf",
        "convert": "turn published weights (.pth or .safetensors) into a folder that transformers loads",
    },
}
_PRESENT = {module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__)}
COMMANDS = {name: text for part in GROUPS.values() for name, text in part.items() if name in _PRESENT}
EXAMPLE = """\
example:
  stmoe train --city B --data_dir DIR --config history
  stmoe predict --model runs/cityB --city B --data_dir DIR --output submission.csv.gz
  stmoe validate --prediction submission.csv.gz --city B --data_dir DIR --edition humob2024
"""
INTERRUPTED = 130  # as shells have it


def main(argv: list[str] | None = None) -> int:
    """Run a command; what goes wrong is said in one line, and the exit status is not 0."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        status = _run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads on, as in `stmoe --help | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # other libraries' errors have lines
        return 1
    return status


def _run(argv: list[str]) -> int:
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"stmoe {__version__}")
        return 0
    if name not in COMMANDS:
        return _refuse(name)
    module = importlib.import_module(f".{name.replace('-', '_')}", commands.__name__)
    if hasattr(module, "main"):
        return module.main(rest)
    text = COMMANDS[name]
    parser = argparse.ArgumentParser(prog=f"stmoe {name}", description=text[0].upper() + text[1:] + ".")
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    return module.run(args)


def _help() -> str:
    lines = ["usage: stmoe COMMAND [--help]", "", "ST-MoE-BERT: where the people of a city will be."]
    for title, part in GROUPS.items():
        present = [f"  {name:12} {text}" for name, text in part.items() if name in COMMANDS]
        lines += ["", f"{title}:", *present] if present else []
    return "\n".join([*lines, "", EXAMPLE.rstrip()])


def _refuse(name: str) -> int:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    what = "option" if name.startswith("-") else "command"
    meant = f"; did you mean {near[0]}?" if near else "; `stmoe --help` lists the commands"
    print(f"error: there is no {what} {name}{meant}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
