"""What the studio adds in a real browser: until it can be used, until a preview is in sight, and with 20 000 jobs."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from playwright.sync_api import Browser, Page

from bench.api.browser_tab import BrowserTab
from bench.figures import Figure, Goal, Scale, compare, percentile
from bench.service import service
from tests.api.many_jobs import copy_job
from tests.stack import Stack
from tests.support import chromium

PROMPT = "a blue fish"
#: Short jobs have no previews.
STEPS = 150
JOBS = 20_000
FRAME_MS = 1000 / 60
#: The tasks and frames of the page's main thread, and the marks of the page: a preview came, and is shown.
CATEGORIES = ["blink.user_timing", "devtools.timeline", "disabled-by-default-devtools.timeline"]
MARKS = ("imagegen:preview", "imagegen:preview-shown")
#: Resolves when the page takes a prompt: the field has the focus, and Generate can be pressed.
USABLE = """
window.usable = new Promise((resolve) => {
  const look = () => {
    const generate = document.querySelector("button.generate");
    if (document.activeElement?.id === "prompt" && generate && !generate.disabled) resolve(performance.now());
  };
  new MutationObserver(look).observe(document, { subtree: true, childList: true, attributes: true });
  addEventListener("focusin", look);
});
"""
#: Notes when Generate was pressed and when its first preview was shown. Nothing polls, because that would be measured.
CLOCK = """() => new Promise((resolve) => {
  let pressed = 0, shown = 0;
  addEventListener("keydown", (event) => event.key === "Enter" && (pressed = performance.now()), true);
  const observer = new PerformanceObserver((list) => {
    for (const { name, startTime } of list.getEntries()) {
      if (name === "imagegen:preview-shown" && pressed) shown ||= startTime;
      // The end of the job before, which came over the API, may arrive only now.
      if (name !== "imagegen:done" || !shown) continue;
      observer.disconnect();
      resolve(shown - pressed);
    }
  });
  observer.observe({ type: "mark" });
  window.armed();
})"""
#: Scrolls by 600 pixels in each frame to the oldest job. Measures what the page does for it, and the frames.
SCROLL = """async () => {
  const list = document.querySelector("[aria-label=Jobs]");
  const nextFrame = () => new Promise(requestAnimationFrame);
  const isAtEnd = () => list.lastElementChild?.querySelector("button").ariaLabel === "a needle";
  const work = [], frames = [];
  let most = 0, last = await nextFrame();
  const end = last + 240_000;
  for (let before = -1; scrollY !== before || !isAtEnd(); ) {
    if (last > end) throw new Error(`after ${list.lastElementChild?.innerText} no older job came`);
    before = scrollY;
    const start = performance.now();
    scrollBy(0, 600);
    dispatchEvent(new Event("scroll"));
    await Promise.resolve();
    work.push(performance.now() - start);
    most = Math.max(most, list.childElementCount);
    const now = await nextFrame();
    frames.push(now - last);
    last = now;
  }
  return { work, frames, most };
}"""


def measure(scale: Scale) -> Iterator[Figure]:
    program = chromium.find(chromium.WHOLE)
    assert program, chromium.MISSING
    with chromium.running(program) as browser, service("sd") as stack:
        # Before all other jobs, because it is what scrolling ends at.
        needle = stack.api.post("/api/jobs", {"prompt": "a needle", "num_inference_steps": 1}).json()
        stack.api.wait_until_done(needle["id"])
        yield opening(browser, stack, scale)
        with tab(browser, stack) as page:
            yield first_preview(page, stack, scale)
            yield from preview_work(browser, page, "studio", scale)
        yield from crowded(browser, stack, needle["id"], scale)


def opening(browser: Browser, stack: Stack, scale: Scale) -> Figure:
    """In a tab that is open already, of a browser that has nothing of this service in its cache."""
    values = []
    for number in range(2 * scale.rounds + 1):
        scale.show_progress(f"opening the studio: round {number}")
        with BrowserTab(browser, f"{stack.api.url}/health/live") as page:
            page.run_in_every_document(USABLE)
            page.navigate(f"{stack.api.url}/")
            values.append(float(page.evaluate("window.usable")))
            page.insert_text(PROMPT)
            assert page.evaluate("JSON.parse(localStorage.getItem('imagegen-form')).prompt") == PROMPT
    # The first one also fills the caches of the service.
    value = percentile(values[1:], 50)
    return Figure("studio: first visit to ready for a prompt, p50", value, "ms", Goal(300), tuple(values[1:]))


@contextmanager
def tab(browser: Browser, stack: Stack) -> Iterator[Page]:
    """A tab with the studio, whose jobs have previews."""
    context = browser.new_context(viewport={"width": 1280, "height": 820})
    context.set_default_timeout(300_000)
    page = context.new_page()
    page.goto(stack.api.url)
    page.get_by_text("More settings").click()
    page.get_by_label("Steps", exact=True).fill(str(STEPS))
    page.get_by_label("Steps", exact=True).blur()
    page.get_by_role("textbox", name="Prompt", exact=True).fill(PROMPT)
    yield page
    context.close()


def first_preview(page: Page, stack: Stack, scale: Scale) -> Figure:
    shown = compare(lambda: in_the_page(page), lambda: over_the_api(stack), scale, "Enter to the first preview")
    return shown.figure("studio: Enter to first preview in sight / API", Goal(1.3), f"{shown.our_median * 1000:.0f} ms")


def in_the_page(page: Page) -> float:
    """Seconds. Waits until the job has ended, so that the next one finds an idle worker."""
    with page.expect_event("console", lambda message: message.text == "armed"):
        page.evaluate(f"() => {{ window.armed = () => console.log('armed'); window.made = ({CLOCK})(); }}")
    page.keyboard.press("Control+Enter")
    return float(page.evaluate("() => window.made")) / 1000


def over_the_api(stack: Stack) -> float:
    with stack.api.stream("/api/events") as events:
        next(events)
        start = time.perf_counter()
        job = stack.api.post("/api/jobs", {"prompt": PROMPT, "num_inference_steps": STEPS}).json()
        next(event for event in events if event.type == "preview")
        seconds = time.perf_counter() - start
    stack.api.wait_until_done(job["id"])
    return seconds


def preview_work(browser: Browser, page: Page, name: str, scale: Scale) -> Iterator[Figure]:
    browser.start_tracing(page=page, categories=CATEGORIES)
    for number in range(scale.rounds):
        scale.show_progress(f"work for previews: round {number}")
        in_the_page(page)
    thread = MainThread(json.loads(browser.stop_tracing())["traceEvents"])
    work = thread.work_per_preview()
    detail = f"{len(work)} previews"
    yield Figure(
        f"{name}: CPU time of the page for a preview, p95", percentile(work, 95), "ms", Goal(16), detail=detail
    )
    yield Figure(f"{name}: main thread of the page while images are made", 100 * thread.share(), "% of a core", Goal(5))


class MainThread:
    """What the main thread of the page did, according to a trace."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self._marks = sorted((event for event in events if event["name"] in MARKS), key=lambda event: event["ts"])
        thread = self._marks[0]["pid"], self._marks[0]["tid"]
        own = [event for event in events if (event["pid"], event["tid"]) == thread]
        # A task that runs when tracing begins or ends has no duration.
        self._tasks = [event for event in own if event["name"] == "RunTask" and "tdur" in event]
        self._frames = sorted(event["ts"] for event in own if event["name"] == "Commit")

    def work_per_preview(self) -> list[float]:
        """Milliseconds of CPU time from the event with a preview to the frame that shows it.

        These are all tasks between: reading the event, script, style, layout and painting. Not what comes before the
        next preview and is not for this one: later steps of progress, collecting garbage. Pixels are decoded and drawn
        by other threads.
        """
        pairs = [(came, shown) for came, shown in pairwise(self._marks) if (came["name"], shown["name"]) == MARKS]
        ends = [min((frame for frame in self._frames if frame > shown["ts"]), default=0) for _, shown in pairs]
        return [self._cpu_ms(came["ts"], end) for (came, _), end in zip(pairs, ends, strict=True) if end]

    def share(self) -> float:
        """The part of its time that it was busy, for whatever reason."""
        start, end = self._marks[0]["ts"], self._marks[-1]["ts"]
        return self._cpu_ms(start, end) * 1000 / float(end - start)

    def _cpu_ms(self, start: float, end: float) -> float:
        inside = (task for task in self._tasks if task["ts"] + task["dur"] > start and task["ts"] <= end)
        return sum(float(task["tdur"]) for task in inside) / 1000


def crowded(browser: Browser, stack: Stack, needle: str, scale: Scale) -> Iterator[Figure]:
    name = f"studio: {JOBS} jobs"
    scale.show_progress(f"storing {JOBS} jobs")
    copy_job(stack, needle, JOBS, prompt="hay {}")
    with tab(browser, stack) as page:
        yield from preview_work(browser, page, name, scale)
        scale.show_progress(f"scrolling through {JOBS} jobs")
        found = page.evaluate(SCROLL)
        frames = found["frames"]
        dropped = 1 - len(frames) * FRAME_MS / sum(frames)
        yield Figure(f"{name}, work in a frame while scrolling, p95", percentile(found["work"], 95), "ms", Goal(16))
        yield Figure(f"{name}, frames dropped while scrolling", 100 * dropped, "%", detail=f"of {len(frames)}")
        yield Figure(f"{name}, most tiles in the page", found["most"], "tiles", Goal(120))
        session = page.context.new_cdp_session(page)
        session.send("HeapProfiler.collectGarbage")
        heap = session.send("Runtime.getHeapUsage")["usedSize"]
        yield Figure(f"{name}, memory of the page after all of them", heap / 2**20, "MB", Goal(64))
        page.evaluate("() => scrollTo(0, 0)")
        start = time.perf_counter()
        page.get_by_role("searchbox").fill("NEEDLE")
        page.wait_for_function("() => document.querySelectorAll('[aria-label=Jobs] li').length === 1")
        yield Figure(f"{name}, search for the oldest", (time.perf_counter() - start) * 1000, "ms", Goal(2000))
