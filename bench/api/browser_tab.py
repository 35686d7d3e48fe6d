"""A tab that nothing watches while it loads: Playwright's own pages report each request, which takes as long again."""

import itertools
import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from playwright.sync_api import Browser

SIZE = {"width": 1280, "height": 820}
#: Between two looks for an answer, which cost the browser little.
INTERVAL_SECONDS, TIMEOUT_SECONDS = 0.05, 60


class BrowserTab:
    """In a context of its own, and so with an empty cache. Speaks Chromium's own protocol."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser.new_browser_cdp_session()
        self._browser.on("Target.receivedMessageFromTarget", self._receive)
        self._context: str = self._browser.send("Target.createBrowserContext")["browserContextId"]
        options = {"url": "about:blank", "browserContextId": self._context, **SIZE}
        target: str = self._browser.send("Target.createTarget", options)["targetId"]
        attached = self._browser.send("Target.attachToTarget", {"targetId": target, "flatten": False})
        self._session: str = attached["sessionId"]
        self._numbers = itertools.count()
        self._messages: list[dict[str, Any]] = []
        self._send("Page.enable")
        self.navigate(url)
        self._wait_for(lambda message: message.get("method") == "Page.loadEventFired")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._browser.send("Target.disposeBrowserContext", {"browserContextId": self._context})
        self._browser.detach()

    def run_in_every_document(self, source: str) -> None:
        self._send("Page.addScriptToEvaluateOnNewDocument", source=source)

    def navigate(self, url: str) -> None:
        self._send("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        options = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        return self._send("Runtime.evaluate", **options)["result"]["value"]

    def insert_text(self, text: str) -> None:
        self._send("Input.insertText", text=text)

    def _send(self, method: str, **params: Any) -> Any:
        """The result of a command to the tab."""
        number = next(self._numbers)
        message = json.dumps({"id": number, "method": method, "params": params})
        self._browser.send("Target.sendMessageToTarget", {"sessionId": self._session, "message": message})
        return self._wait_for(lambda answer: answer.get("id") == number)["result"]

    def _receive(self, event: dict[str, Any]) -> None:
        if event["sessionId"] == self._session:
            self._messages.append(json.loads(event["message"]))

    def _wait_for(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < end:
            # Playwright passes events on while it waits for an answer.
            self._browser.send("Browser.getVersion")
            for message in filter(is_wanted, self._messages):
                return message
            time.sleep(INTERVAL_SECONDS)
        raise TimeoutError("the browser does not answer")
