"""A real Chromium without a window."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

WHOLE = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
#: The first has the engine without the rest of a browser: a tab takes less than half of the CPU time.
NAMES = ("chromium-headless-shell", *WHOLE)
MISSING = "no Chromium: install it with `apt-get install chromium-headless-shell`, or any Chrome"


def find(names: tuple[str, ...] = NAMES) -> str | None:
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def running(program: str) -> Iterator[Browser]:
    """Playwright occupies the event loop of the thread until the end of the block."""
    with sync_playwright() as playwright:
        # Without its sandbox, because it may run as root.
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()
