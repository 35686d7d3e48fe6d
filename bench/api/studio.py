"""What the studio adds in a real browser: until it can be used, until a preview is in sight, and with 20 000 jobs."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from bench.figures import Figure, Goal, Scale, compare, percentile
from bench.service import service
from tests.api.many_jobs import copy_job
from tests.stack import Stack

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PROMPT = "a blue fish"
#: Short jobs have no previews.
STEPS = 150
JOBS = 20_000
#: The CPU time of each task of the page's main thread, and the marks of the page.
CATEGORIES = ["blink.user_timing", "disabled-by-default-devtools.timeline"]
MARKS = ("imagegen:submitted", "imagegen:preview", "imagegen:done")
#: Notes when the prompt has the focus and Generate can be pressed, when Enter is pressed, and when a preview is shown.
CLOCK = """
addEventListener("keydown", (event) => { if (event.key === "Enter") window.pressed = performance.now(); }, true);
new PerformanceObserver((list) => {
  for (const { name, startTime } of list.getEntries())
    if (name === "imagegen:preview-shown" && window.pressed && !window.shown) window.shown = startTime;
}).observe({ type: "mark", buffered: true });
const look = () => {
  const button = document.querySelector("button[type=submit], .generate");
  if (document.activeElement?.id === "prompt" && button && !button.disabled) window.usable ??= performance.now();
  else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
#: Scrolls by 600 pixels in each frame to the oldest job, and measures the work of the page in a frame.
SCROLL = """async () => {
  const list = document.querySelector("[aria-label=Jobs]");
  const work = [];
  let most = 0;
  const end = performance.now() + 240_000;
  const isAtEnd = () => list.lastElementChild?.querySelector("button").ariaLabel === "a needle";
  for (let before = -1; scrollY !== before || !isAtEnd(); ) {
    if (performance.now() > end) throw new Error(`after ${list.lastElementChild?.innerText} no older job came`);
    before = scrollY;
    const start = performance.now();
    scrollBy(0, 600);
    dispatchEvent(new Event("scroll"));
    await Promise.resolve();
    work.push(performance.now() - start);
    most = Math.max(most, list.childElementCount);
    await new Promise(requestAnimationFrame);
  }
  return { work, most };
}"""


def measure(scale: Scale) -> Iterator[Figure]:
    with chromium() as browser:
        with service("sd") as stack:
            yield opening(browser, stack, scale)
            yield from previews(browser, stack, scale)
        with service("null") as stack:
            yield from crowded(browser, stack, scale)


@contextmanager
def chromium() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert program, "no Chromium: install it with `apt-get install chromium`, or any Chrome"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@contextmanager
def tab(browser: Browser, stack: Stack) -> Iterator[Page]:
    """Without anything in the cache of the browser."""
    context = browser.new_context(viewport={"width": 1280, "height": 820})
    context.set_default_timeout(300_000)
    context.add_init_script(CLOCK)
    page = context.new_page()
    page.goto(stack.api.url)
    page.wait_for_function("() => window.usable")
    yield page
    context.close()


def opening(browser: Browser, stack: Stack, scale: Scale) -> Figure:
    values = []
    # The first one also starts a process of the browser.
    for number in range(2 * scale.rounds + 1):
        scale.show_progress(f"opening the studio: round {number}")
        with tab(browser, stack) as page:
            values.append(float(page.evaluate("() => window.usable")))
    value = percentile(values[1:], 50)
    return Figure("studio: first visit to ready for a prompt, p50", value, "ms", Goal(300), tuple(values[1:]))


def previews(browser: Browser, stack: Stack, scale: Scale) -> Iterator[Figure]:
    with tab(browser, stack) as page:
        set_steps(page)
        page.get_by_role("textbox", name="Prompt", exact=True).fill(PROMPT)
        shown = compare(lambda: in_the_page(page), lambda: over_the_api(stack), scale, "Enter to the first preview")
        yield shown.figure(
            "studio: Enter to first preview in sight / API", Goal(1.3), f"{shown.our_median * 1000:.0f} ms"
        )
        browser.start_tracing(page=page, categories=CATEGORIES)
        for number in range(scale.rounds):
            scale.show_progress(f"work for previews: round {number}")
            in_the_page(page)
        work = work_per_preview(json.loads(browser.stop_tracing())["traceEvents"])
    value = percentile(work, 95)
    yield Figure(
        "studio: CPU time of the page for a preview, p95", value, "ms", Goal(16), detail=f"{len(work)} previews"
    )


def set_steps(page: Page) -> None:
    page.get_by_text("More settings").click()
    page.get_by_label("Steps", exact=True).fill(str(STEPS))
    page.get_by_label("Steps", exact=True).blur()


def in_the_page(page: Page) -> float:
    """Seconds. Waits until the job has ended, so that the next one finds an idle worker."""
    page.evaluate("() => { window.pressed = window.shown = 0; }")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("() => window.shown")
    page.wait_for_function("() => document.title === 'imagegen' || document.title.startsWith('Done')")
    return float(page.evaluate("() => window.shown - window.pressed")) / 1000


def over_the_api(stack: Stack) -> float:
    with stack.api.stream("/api/events") as events:
        next(events)
        start = time.perf_counter()
        job = stack.api.post("/api/jobs", {"prompt": PROMPT, "num_inference_steps": STEPS}).json()
        next(event for event in events if event.type == "preview")
        seconds = time.perf_counter() - start
    stack.api.wait_until_done(job["id"])
    return seconds


def work_per_preview(events: list[dict[str, Any]]) -> list[float]:
    """Milliseconds of CPU time of the page's main thread from each preview to the next one of the same job."""
    marks = sorted((event for event in events if event["name"] in MARKS), key=lambda event: event["ts"])
    thread = marks[0]["pid"], marks[0]["tid"]
    tasks = [task for task in events if task["name"] == "RunTask" and (task["pid"], task["tid"]) == thread]
    return [
        sum(task["tdur"] for task in tasks if start["ts"] <= task["ts"] + task["dur"] < end["ts"]) / 1000
        for start, end in pairwise(marks)
        if start["name"] == end["name"] == "imagegen:preview"
    ]


def crowded(browser: Browser, stack: Stack, scale: Scale) -> Iterator[Figure]:
    scale.show_progress(f"storing {JOBS} jobs")
    needle = stack.api.post("/api/jobs", {"prompt": "a needle"}).json()
    stack.api.wait_until_done(needle["id"])
    copy_job(stack, needle["id"], JOBS, prompt="hay {}")
    with tab(browser, stack) as page:
        scale.show_progress(f"scrolling through {JOBS} jobs")
        found = page.evaluate(SCROLL)
        name = f"studio: {JOBS} jobs"
        yield Figure(f"{name}, work in a frame while scrolling, p95", percentile(found["work"], 95), "ms", Goal(16))
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
