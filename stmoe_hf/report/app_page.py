"""The looks of the app, in gradio; what it does is in `app`. No fonts, counters or history leave the machine."""

import html
import os
from pathlib import Path
from typing import Any

from ..data.errors import DataError
from .app import App, frame, summary

# Before gradio is imported: else it counts its starts and asks for newer versions over the network.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
import gradio as gr

INTRODUCTION = """# Where will they be?
Give the past of some people (records `uid,d,t,x,y`, or GPS points with person, time, latitude and longitude; csv,
csv.gz or parquet) and see where they will be in the days to come. The file is read by the machine that runs this page
and by nobody else; it is removed when you close the page."""


def build(app: App) -> Any:
    """The page, as `gradio.Blocks`; `launch` shows it."""
    os.environ["GRADIO_TEMP_DIR"] = str(app.folder)  # where uploads are kept until they are read

    def mistake(error: Exception) -> str:
        return f"**This cannot be used:** {html.escape(str(error))}"

    def understand(path: Path, timezone: str) -> tuple[Any, ...]:
        try:
            with app.open(path, timezone) as city:
                return summary(city, path.name), str(path), gr.update(interactive=True), gr.update(interactive=True)
        except DataError as error:
            return mistake(error), None, gr.update(interactive=False), gr.update(interactive=False)

    def read(uploaded: str | None, timezone: str, request: gr.Request) -> tuple[Any, ...]:
        if uploaded is None:
            return "", None, gr.update(interactive=False), gr.update(interactive=False)
        try:
            path = app.take(uploaded, request.session_hash)
        except DataError as error:
            return mistake(error), None, gr.update(interactive=False), gr.update(interactive=False)
        return understand(path, timezone)

    def example(timezone: str, request: gr.Request) -> tuple[Any, ...]:
        return understand(app.example(request.session_hash), timezone)

    def forecast(path: str, timezone: str, days: float, cells: float) -> tuple[Any, ...]:
        try:
            with app.open(Path(path), timezone) as city:
                text, output = app.forecast(city, int(days), int(cells), Path(path))
        except DataError as error:
            return mistake(error), "", gr.update(visible=False)
        return "The forecast, beside their past:", frame(text), gr.update(value=str(output), visible=True)

    def look_back(path: str, timezone: str, days: float) -> tuple[Any, ...]:
        try:
            with app.open(Path(path), timezone) as city:
                text = app.backtest(city, int(days), Path(path))
        except DataError as error:
            return mistake(error), "", gr.update(visible=False)
        return "Their last days, as they would have been forecast:", frame(text), gr.update(visible=False)

    def leave(request: gr.Request) -> None:
        app.end(request.session_hash)

    with gr.Blocks(title="Where will they be?", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(INTRODUCTION)
        source = gr.State(None)
        with gr.Row():
            with gr.Column():
                uploaded = gr.File(label=f"File (at most {app.limits.megabytes} MB)", type="filepath", height=140)
                timezone = gr.Textbox("UTC", label="Time zone of GPS points", info="Such as Asia/Tokyo")
                of_example = gr.Button("Take generated people")
            understood = gr.Markdown(elem_id="understood", min_height=140)
        with gr.Row():
            days = gr.Slider(1, app.limits.days, 7, step=1, label="Days ahead, or back")
            cells = gr.Slider(1, 5, 3, step=1, label="Cells told for each slot")
        with gr.Row():
            of_forecast_ = gr.Button("Forecast", variant="primary", interactive=False, elem_id="forecast")
            of_backtest_ = gr.Button("How good would it have been?", interactive=False, elem_id="backtest")
        said = gr.Markdown(elem_id="said")
        download = gr.DownloadButton("Download the forecast (csv)", visible=False, elem_id="download")
        shown = gr.HTML()
        after_reading = [understood, source, of_forecast_, of_backtest_]
        quiet: dict[str, Any] = {"api_visibility": "private"}
        uploaded.upload(read, [uploaded, timezone], after_reading, **quiet)
        of_example.click(example, [timezone], after_reading, **quiet)
        result = [said, shown, download]
        of_forecast_.click(forecast, [source, timezone, days, cells], result, **quiet)
        of_backtest_.click(look_back, [source, timezone, days], result, **quiet)
        blocks.unload(leave)
    return blocks


def launch(app: App, host: str = "127.0.0.1", port: int | None = None, *, wait: bool = True) -> tuple[Any, str]:
    """Serve the page until it is stopped (or, without `wait`, in the background): the blocks and their address."""
    blocks = build(app)
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    _, url, _ = blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        max_file_size=f"{app.limits.megabytes}mb",
        theme=gr.themes.Default(**fonts),  # none of Google's, which come over the network
        enable_monitoring=False,
    )
    if wait:
        print(f"the app is at {url} (Ctrl-C ends it)")
        try:
            blocks.block_thread()
        finally:
            app.close()
    return blocks, url
