"""Tabs with the studio. Tests find everything as people do: by role, label and text."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, ViewportSize, expect

from tests import conftest as root
from tests.api import conftest
from tests.stack import Api
from tests.support import chromium

#: For a busy machine; everything is awaited, nothing is slept.
TIMEOUT_MS = 60_000
DESKTOP, PHONE = ViewportSize(width=1280, height=820), ViewportSize(width=320, height=700)
expect.set_options(timeout=TIMEOUT_MS)


def posted(request: Request) -> dict[str, Any]:
    """The JSON that the page sends."""
    body = request.post_data_json
    assert isinstance(body, dict)
    return body


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each file, because later tests need the event loop of this thread."""
    program = chromium.find()
    if program is None:
        pytest.skip(chromium.MISSING)
    with chromium.running(program) as browser:
        yield browser


#: Keeps what the page showed about the current job, because states pass by faster than a test can look.
RECORD = """() => {
  const shown = [];
  const record = () => {
    const stage = document.querySelector("[aria-label='Current job']");
    const images = [...stage.querySelectorAll("img")].map((image) => image.alt);
    shown.push([document.title, stage.innerText, ...images].join("\\n"));
  };
  new MutationObserver(record).observe(document, { subtree: true, childList: true, characterData: true });
  window.shown = shown;
}"""


class Studio:
    """One tab with the studio."""

    def __init__(self, page: Page, api: Api) -> None:
        self.page, self.api = page, api
        self.stage = page.get_by_role("region", name="Current job")
        self.gallery = page.get_by_role("region", name="Gallery")
        self.prompt = page.get_by_role("textbox", name="Prompt", exact=True)

    def open(self, path: str = "/") -> "Studio":
        self.page.goto(f"{self.api.url}{path}")
        return self

    def generate(self, prompt: str) -> None:
        self.prompt.fill(prompt)
        expect(self.page.get_by_role("combobox", name="Model", exact=True)).to_be_visible()
        self.page.get_by_role("button", name="Generate").click()

    def set(self, label: str, value: str) -> None:
        """Set a number among all settings."""
        more = self.page.get_by_text("More settings")
        field = self.page.get_by_label(label, exact=True)
        expect(self.page.get_by_role("spinbutton", name="Seed")).to_be_visible()
        if not field.is_visible():
            more.click()
        field.fill(value)
        field.blur()

    def prolong_notices(self) -> None:
        """To ten minutes, for a busy machine. Until then, deleted jobs can be restored."""
        self.page.evaluate(
            "() => { const set = setTimeout; window.setTimeout = (run, ms) => set(run, ms === 6000 ? 600_000 : ms); }"
        )

    def record(self) -> None:
        """Keep all states that the page shows from now on."""
        self.page.evaluate(RECORD)

    def recorded(self) -> str:
        """Titles of the page, texts and image descriptions of the current job."""
        shown: list[str] = self.page.evaluate("() => window.shown")
        return "\n".join(shown)

    def made(self, prompt: str) -> Locator:
        """The finished image of the current job."""
        return self.stage.get_by_role("img", name=prompt, exact=True).first

    def tile(self, prompt: str) -> Locator:
        return self.gallery.get_by_role("button", name=prompt, exact=True)

    def tiles(self) -> Locator:
        return self.gallery.get_by_role("listitem")


def _text(message: ConsoleMessage) -> str:
    return f"{message.text} ({message.location['url']})"


@contextmanager
def watched(context: BrowserContext, host: str, allowed: tuple[str, ...] = ()) -> Iterator[None]:
    """Fails on an error in the console and on a request to another host."""
    errors: list[str] = []
    handlers: dict[Any, Callable[[Any], None]] = {
        "console": lambda message: errors.append(_text(message)) if message.type in ("error", "warning") else None,
        "weberror": lambda error: errors.append(str(error.error)),
        "request": lambda request: errors.append(request.url) if _is_elsewhere(request.url, host) else None,
    }
    for event, handler in handlers.items():
        context.on(event, handler)
    yield
    for event, handler in handlers.items():
        context.remove_listener(event, handler)
    unexpected = [error for error in errors if not any(text in error for text in allowed)]
    assert unexpected == []


def _is_elsewhere(url: str, host: str) -> bool:
    return urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != host


api, keyed, stranger = conftest.api, conftest.keyed, conftest.stranger
#: Another instance than that of other tests, which delete files of images that a gallery would show.
null = root.null
Open = Callable[..., Studio]


@pytest.fixture(scope="module")
def idle_tabs(browser: Browser) -> dict[str, Page]:
    """By their options. A page takes 0.24 s of CPU time in a tab that was used before, and 0.41 s in a new one."""
    return {}


@pytest.fixture
def open_studio(browser: Browser, idle_tabs: dict[str, Page]) -> Iterator[Open]:
    """Open tabs, each in a context of its own unless `beside` names another tab.

    Whoever changes a tab for good, by a script for all its pages or a clock, asks for a new one.
    """
    with ExitStack() as stack:

        def open_tab(
            api: Api,
            path: str = "/",
            beside: Studio | None = None,
            allowed: tuple[str, ...] = (),
            is_new: bool = False,
            **options: Any,
        ) -> Studio:
            if beside is not None:
                return Studio(beside.page.context.new_page(), api).open(path)
            kind = repr(options)
            page = None if is_new else idle_tabs.pop(kind, None)
            if page is None:
                context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
                context.set_default_timeout(TIMEOUT_MS)
                page = context.new_page()
            if is_new:
                stack.callback(page.context.close)
            else:
                stack.callback(give_back, page, kind, api)
            stack.enter_context(watched(page.context, urlsplit(api.url).netloc, allowed))
            page.emulate_media(color_scheme=options.get("color_scheme"), reduced_motion="reduce")
            return Studio(page, api).open(path)

        def give_back(page: Page, kind: str, api: Api) -> None:
            """As new: without routes, other tabs beside it, and what the page stores."""
            page.unroute_all(behavior="ignoreErrors")
            for other in page.context.pages[1:]:
                other.close()
            page.goto(f"{api.url}/health/live")
            page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
            idle_tabs[kind] = page

        yield open_tab
