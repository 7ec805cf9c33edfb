"""The pictures of README and docs, of generated people only: the report, a person of it, and the app.

    python benchmarks/pictures.py --output docs/

Trains for a minute on a generated city (or takes `--run`, a run of a generated city), writes its report and opens it,
and the app, in chromium (extras report, app; playwright). Look at the pictures before they are committed.
"""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from common import arguments
from stmoe_hf.data.synthetic import synthesize
from stmoe_hf.report.page import write_report
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import run

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TALL = 1700
USERS, SEED = 100, 7


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    parser.add_argument("--run", type=Path, help="of a generated city; unset: one is trained")
    parser.add_argument("--model", help="of the app; unset: the weights that come with the package")
    parser.add_argument("--only", choices=("report", "app"), help="only these pictures")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("error: there is no chromium; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        if args.only != "app":
            report = write_report(args.run or train(Path(folder)), Path(folder) / "report.html", most_people=20)
            picture_report(browser, report, args.output)
        if args.only != "report":
            picture_app(browser, args.model, args.output)
        browser.close()


def train(folder: Path) -> Path:
    """A small run on a generated city."""
    synthesize("B", USERS, seed=SEED, output_dir=folder / "data")
    options = ["--city", "B", "--data_dir", str(folder / "data"), "--config", "configs/demo.yaml", "--seed", str(SEED)]
    options += ["--eval_fraction", "0.5", "--num_train_epochs", "2", "--disable_tqdm", "true"]
    run(*parse_arguments([*options, "--output_dir", str(folder / "run")]))
    return folder / "run"


def picture_report(browser: Browser, report: Path, output: Path) -> None:
    """report.png (the city), person.png, report_phone.png."""
    for size, name in ((WIDE, "report.png"), (PHONE, "report_phone.png")):
        page = browser.new_page(viewport=size)
        page.goto(report.resolve().as_uri())
        page.wait_for_selector("#chart-0 .plot-container")
        page.get_by_role("heading", name="The city").evaluate("heading => heading.scrollIntoView()")
        shot(page, output / name)
        if size is WIDE:
            page.select_option("#person", index=1)
            page.locator(".pair").screenshot(path=output / "person.png")
        page.close()


def picture_app(browser: Browser, model: str | None, output: Path) -> None:
    """app.png and app_phone.png."""
    from stmoe_hf.report.app import App
    from stmoe_hf.report.app_page import launch

    app = App(model)
    blocks, url = launch(app, wait=False)
    try:
        for size, name in ((WIDE, "app.png"), (PHONE, "app_phone.png")):
            page = browser.new_page(viewport=size)
            page.goto(url)
            page.get_by_text("Take generated people").click()
            page.click("#forecast:enabled", timeout=120_000)
            page.frame_locator("iframe[title=report]").locator("#map-forecast .plot-container").wait_for()
            page.set_viewport_size({"width": size["width"], "height": TALL})  # a frame beyond it is not painted
            page.evaluate("window.scrollTo(0, 0)")
            shot(page, output / name)
            page.close()
    finally:
        blocks.close()
        app.close()


def shot(page: Page, path: Path) -> None:
    page.wait_for_timeout(500)  # until the charts have taken their size
    page.screenshot(path=path)


if __name__ == "__main__":
    main()
