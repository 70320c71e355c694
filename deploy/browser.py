"""The system's Chromium, driven by Playwright: for the tests, the pictures of the dashboard and its measure."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from deploy import servers

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def program() -> str:
    """Its path. Raises ServerMissing."""
    other = shutil.which("chromium-browser") or shutil.which("google-chrome")
    return other or servers.find("chromium", "chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """While it is there, nothing else in this thread may run an event loop. Raises ServerMissing."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        yield browser
        browser.close()
