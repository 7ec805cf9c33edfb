"""A real browser: Debian's chromium, driven by Playwright. With STMOE_REQUIRE_BROWSER set its lack is a failure."""

import importlib.util
import os
import shutil

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()
PATIENCE = 180_000  # milliseconds


def open_browser():
    """A context manager of a browser; the test is skipped where there is none, or fails where one is required."""
    if importlib.util.find_spec("playwright") is None:
        _do_without("playwright is not installed")
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        _do_without("there is no chromium on this machine")
    return _Browser(sync_playwright(), chromium)


def _do_without(reason):
    (pytest.fail if os.environ.get("STMOE_REQUIRE_BROWSER") else pytest.skip)(reason)


class _Browser:
    def __init__(self, manager, chromium):
        self.manager, self.chromium = manager, chromium

    def __enter__(self):
        self.browser = self.manager.__enter__().chromium.launch(executable_path=self.chromium, args=FLAGS)
        return self.browser

    def __exit__(self, *error):
        self.browser.close()
        self.manager.__exit__(*error)


def new_page(browser, **options):
    """A page with the patience that a machine with other work needs."""
    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE)
    return page


def complaints(page) -> list[str]:
    """A list that fills with every error of the console and of the page's scripts."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found
