"""A real browser: Debian's chromium, driven by Playwright."""

import shutil

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()


def open_browser():
    """A context manager of a browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    return _Browser(playwright.sync_playwright(), chromium)


class _Browser:
    def __init__(self, manager, chromium):
        self.manager, self.chromium = manager, chromium

    def __enter__(self):
        self.browser = self.manager.__enter__().chromium.launch(executable_path=self.chromium, args=FLAGS)
        return self.browser

    def __exit__(self, *error):
        self.browser.close()
        self.manager.__exit__(*error)


def complaints(page) -> list[str]:
    """A list that fills with every error of the console and of the page's scripts."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found
