"""`stmoe app`: try one's own file in the browser"""

import argparse

from ..data.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="folder or Hub id (default: the weights that come with the package)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: of every network")
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860 on)")
    parser.add_argument("--max_mb", type=int, default=20, help="largest file that is taken, in MB (default 20)")
    parser.add_argument("--max_people", type=int, default=200, help="most people of a file (default 200)")


def run(args: argparse.Namespace) -> int:
    from ..prediction.load import find_model  # heavy, and no part of the help

    find_model(args.model)
    try:
        from ..report.app import App, Limits
        from ..report.app_page import launch

        launch(App(args.model, Limits(args.max_mb, args.max_people)), args.host, args.port)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("gradio", "plotly"):
            raise
        raise DataError(f"the app needs {error.name}: pip install 'stmoe-hf[app]'") from None
    return 0
