"""The commands: `python -m stmoe_hf COMMAND --help`."""

import argparse
import importlib
import logging
import sys

# Command -> what it does. Each is a module of stmoe_hf.commands, imported only when it is called.
COMMANDS = {
    "backtest": "forecast the last days of people's past and score it beside counting: how far to trust a forecast",
    "convert": "turn published weights (.pth or .safetensors) into a folder that transformers loads",
    "demo": "train on a generated city A, fine-tune on B, predict and score: the whole way in minutes",
    "export": "write a city as a dataset for the Hub: parquet and a card",
    "forecast": "say where people will be in the days to come, from records or GPS points, without training",
    "gps": "turn GPS points (csv, parquet, GeoLife) into the records of a city of any grid",
    "locate": "give records or predictions latitude, longitude and time: GeoJSON or csv",
    "predict": "predict the records that a file asks for with a saved model, and write a submission",
    "prepare": "read, check and store a city of any size, so that runs open it at once",
    "score": "score predicted records against the true ones: GEO-BLEU, DTW and accuracy",
    "synthesize": "write a generated city of any size in the format of an edition",
    "validate": "check a submission as the organisers do, and name the first wrong line of each kind",
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m stmoe_hf",
        description="ST-MoE-BERT for human mobility. Training has a script of its own: train_hf.py --help",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == next((word for word in argv if not word.startswith("-")), None):
            module = importlib.import_module(f"stmoe_hf.commands.{name}")
            module.add_arguments(command)
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    try:
        return module.run(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
