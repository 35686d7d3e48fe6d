"""Take the screenshots in docs/images/studio: `python -m tools.studio_screenshots`. It needs a Chromium and a minute.

They show each view in light and dark colours, on a wide screen and on a phone, with images of the starter model.
"""

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, Position, Route, expect

from tests.compose.conftest import Launched
from tests.stack import Api
from tests.support import chromium

TARGET = Path(__file__).parents[1] / "docs/images/studio"
SCREENS: dict[str, Any] = {
    "wide": {"viewport": {"width": 1280, "height": 820}},
    "narrow": {"viewport": {"width": 360, "height": 740}, "has_touch": True},
}
#: In the gallery, oldest first. The starter model draws them well.
PROMPTS = (
    "a green cactus on an orange background",
    "a crab on a white background",
    "a rocket on a blue background",
    "a panda on a purple background",
    "a red mushroom on a green background",
    "a yellow star on a purple background",
    "a penguin on a teal background",
    "a frog on a pink background",
    "a red heart on a blue background",
    "a house on a blue background",
)
MADE = "a red car on a yellow background"
RUNNING, WAITING = "a panda on a pink background", ("a ghost on a black background", "a robot on an orange background")
SEED, LONG = 7, 150
#: When the preview shows something.
NEARLY_DONE = f"() => /Step 1[234]. of {LONG}/.test(document.body.innerText)"
#: Those that are in sight.
IMAGES_ARE_SHOWN = """() => [...document.images].every((image) => {
  const { top, bottom } = image.getBoundingClientRect();
  return image.naturalWidth || bottom < 0 || top > innerHeight;
})"""
#: What somebody drags from another window.
FILE = """async (url) => {
  const data = new DataTransfer();
  data.items.add(new File([await (await fetch(url)).blob()], "image.png", { type: "image/png" }));
  return data;
}"""


def views(page: Page, api: Api) -> Iterator[str]:
    """Show one after the other, and yield the name of each."""
    stage, gallery = page.get_by_role("region", name="Current job"), page.get_by_role("region", name="Gallery")

    start(page, api)
    yield "gallery"
    page.get_by_role("button", name="Keys").click()
    yield "keys"

    start(page, api)
    found = api.get("/api/jobs", params={"q": "penguin"}).json()["jobs"][0]
    page.dispatch_event("body", "drop", {"dataTransfer": page.evaluate_handle(FILE, found["images"][0]["url"])})
    expect(page.get_by_text("Made with imagegen")).to_be_visible()
    yield "reader"

    start(page, api)
    for prompt in PROMPTS[-3:-1]:
        gallery.get_by_role("button", name=prompt, exact=True).focus()
        page.keyboard.press("x")
    if (link := page.get_by_role("link", name="Gallery")).is_visible():
        link.click()
    yield "selection"

    start(page, api)
    gallery.get_by_role("button", name=PROMPTS[-1], exact=True).click()
    expect(page.get_by_role("complementary").get_by_role("button", name="Everything")).to_be_visible()
    yield "viewer"
    page.keyboard.press("c")
    yield "compare"

    start(page, api)
    page.get_by_role("link", name="Service").click()
    expect(page.get_by_text("Everything works")).to_be_visible()
    yield "service"

    start(page, api)
    page.get_by_label("Images", exact=True).fill("2")
    generate(page, MADE)
    expect(stage.get_by_text("Done", exact=True)).to_be_visible()
    yield "stage"
    page.get_by_text("More settings").click()
    stage.get_by_role("button", name="Use as input").click()
    button = page.get_by_role("button", name="Paint a mask")
    button.evaluate("(button) => button.scrollIntoView({ block: 'center' })")
    yield "input"
    page.get_by_role("button", name="Dismiss").click()
    button.click()
    mask = page.get_by_role("application")
    width = mask.evaluate("(mask) => mask.clientWidth")
    for y in (0.36, 0.4, 0.44):
        left, right = (Position(x=x * width, y=y * width) for x in (0.4, 0.7))
        mask.drag_to(mask, source_position=left, target_position=right)
    mask.hover(position={"x": 0.8 * width, "y": 0.6 * width})
    yield "mask"

    start(page, api)
    page.get_by_label("Images", exact=True).fill("1")
    generate(page, RUNNING, num_inference_steps=LONG)
    expect(stage.get_by_text(re.compile(r"Step \d+"))).to_be_visible()
    for prompt in WAITING:
        generate(page, prompt)
        expect(stage.get_by_text(prompt)).to_be_visible()
    stage.get_by_role("button", name=RUNNING, exact=True).click()
    page.get_by_role("textbox", name="Prompt", exact=True).fill(RUNNING)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function(NEARLY_DONE)
    yield "watching"


def start(page: Page, api: Api) -> None:
    """Open the studio anew, also where only what follows # in its address would change."""
    page.goto(f"{api.url}/health/live")
    page.goto(api.url)
    expect(page.get_by_role("spinbutton", name="Seed")).to_be_visible()
    expect(page.get_by_role("button", name=PROMPTS[-1], exact=True)).to_be_visible()


def generate(page: Page, prompt: str, **settings: int) -> None:
    """Press Generate. The form does not show the seed, which makes the same images each time, nor `settings`."""

    def complete(route: Route) -> None:
        route.continue_(post_data={**(route.request.post_data_json or {}), "seed": SEED, **settings})

    page.route("**/api/jobs", complete, times=1)
    page.get_by_role("textbox", name="Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Generate").click()


def save(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    page.wait_for_function(IMAGES_ARE_SHOWN)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(TARGET / f"{name}.webp", quality=80, method=6)
    print(name)


def fill_gallery(api: Api) -> set[str]:
    """The ids of its jobs."""
    requests = [{"prompt": prompt, "seed": SEED, "num_images": 1 + (prompt == PROMPTS[-1])} for prompt in PROMPTS]
    jobs = [api.post("/api/jobs", request).json() for request in requests]
    return {api.wait_until_done(job["id"])["id"] for job in jobs}


def remove_others(api: Api, kept: set[str]) -> None:
    """Delete what a tab has made, so that the next one shows the same gallery."""
    for job in api.get("/api/jobs").json()["jobs"]:
        if job["id"] not in kept:
            api.delete(job["links"]["self"])
            api.wait_until_done(job["id"])
            api.delete(f"{job['links']['self']}?purge=true")


def tabs(browser: Browser) -> Iterator[tuple[str, Page]]:
    """New ones, each with the end of the names of its screenshots."""
    for screen, options in SCREENS.items():
        for color in ("light", "dark"):
            with browser.new_context(**options, color_scheme=color, reduced_motion="reduce") as context:
                yield f"{color}-{screen}", context.new_page()


def main() -> None:
    program = chromium.find()
    if program is None:
        sys.exit(chromium.MISSING)
    # Images may take long on a busy machine.
    expect.set_options(timeout=60_000)
    with (
        TemporaryDirectory() as folder,
        TemporaryDirectory() as other,
        Launched(Path(folder), SD_BACKENDS="sd") as service,
        Launched(Path(other), SD_API_KEY="somebody:0123456789abcdef") as locked,
        chromium.running(program) as browser,
    ):
        for launched in (service, locked):
            launched.is_ready()
        api = Api(service.launcher, service.url)
        kept = fill_gallery(api)
        for name, page in tabs(browser):
            for view in views(page, api):
                save(page, f"{view}-{name}")
            remove_others(api, kept)
            page.goto(locked.url)
            expect(page.get_by_label("API key")).to_be_focused()
            save(page, f"login-{name}")


if __name__ == "__main__":
    main()
