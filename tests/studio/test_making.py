"""Making images in the browser with the starter model, and watching them."""

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from tests.api.native.test_purge import generated
from tests.stack import Stack
from tests.studio.conftest import Open, Studio, posted


def submitted(stack: Stack, **request: Any) -> dict[str, Any]:
    answer = stack.api.post("/api/jobs", request)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def jobs_of(stack: Stack, prompt: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.api.get("/api/jobs", params={"q": prompt}).json()["jobs"]
    return found


def pixels(stack: Stack, job: dict[str, Any]) -> "np.ndarray[Any, Any]":
    content = stack.api.get(f"{job['links']['self']}/images/0").content
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


@pytest.fixture
def studio(sd: Stack, open_studio: Open) -> Studio:
    return open_studio(sd.api)


def test_a_first_image_is_made_from_an_empty_page(studio: Studio) -> None:
    expect(studio.prompt).to_be_focused()
    expect(studio.page.get_by_text("Your next image appears here")).to_be_visible()

    studio.page.keyboard.type("a red heart on a blue background")
    studio.page.keyboard.press("Control+Enter")

    expect(studio.made("a red heart on a blue background")).to_be_visible()
    expect(studio.tile("a red heart on a blue background").first).to_be_visible()
    expect(studio.page.get_by_role("status")).to_contain_text("Done")
    expect(studio.prompt).to_be_focused()
    expect(studio.page).to_have_title("imagegen")


def simulate(studio: Studio, seconds: float) -> None:
    """The next job takes this long, unless it is cancelled."""

    def prolong(route: Route) -> None:
        simulated = {"num_inference_steps": 100, "metadata": {"simulate": {"seconds": seconds}}}
        route.continue_(post_data={**posted(route.request), **simulated})

    studio.page.route("**/api/jobs", prolong, times=1)


def test_the_preview_becomes_the_image(null: Stack, open_studio: Open) -> None:
    studio = open_studio(null.api)
    # One or two previews, which are a second apart.
    simulate(studio, seconds=2.5)
    studio.record()
    studio.generate("a blue fish")

    expect(studio.made("a blue fish")).to_be_visible()
    shown = studio.recorded()
    assert "Preview of a blue fish" in shown
    assert re.search(r"Step \d+ of 100", shown)
    assert re.search(r"\d+ % · imagegen", shown)


def test_a_running_job_is_cancelled(null: Stack, open_studio: Open) -> None:
    studio = open_studio(null.api)
    simulate(studio, seconds=100)
    studio.generate("a green car")
    # Not by asking the service: only who waits for the page lets it send the request that `simulate` holds.
    expect(studio.stage.get_by_text(re.compile(r"Step \d+ of 100"))).to_be_visible()

    studio.stage.get_by_role("button", name="Cancel").click()

    expect(studio.stage.get_by_text("Cancelled", exact=True)).to_be_visible()
    assert [job["state"] for job in jobs_of(null, "a green car")] == ["cancelled"]


def test_chosen_settings_become_the_request_and_can_be_reset(sd: Stack, studio: Studio) -> None:
    studio.set("Steps", "3")
    studio.set("Seed", "77")
    studio.set("Label", "from the form")
    studio.page.get_by_role("button", name=re.compile("^16:9")).click()
    studio.generate("a request of the form")
    expect(studio.made("a request of the form")).to_be_visible()

    studio.page.get_by_role("button", name="Reset Steps to the default").click()

    (job,) = jobs_of(sd, "request form")
    size = (job["request"]["width"], job["request"]["height"])
    assert (job["request"]["num_inference_steps"], job["request"]["seed"], job["label"]) == (3, 77, "from the form")
    assert size == (168, 96)
    expect(studio.page.get_by_label("Steps", exact=True)).to_have_value("20")


@pytest.fixture
def away(sd: Stack, open_studio: Open) -> Studio:
    """A page whose events still arrive while the network is away for everything else, as Chromium does it."""
    studio = open_studio(sd.api, allowed=("ERR_INTERNET_DISCONNECTED", "ERR_NETWORK"), is_new=True)
    studio.page.wait_for_function("() => performance.getEntriesByName('imagegen:sync').length")
    expect(studio.page.get_by_role("combobox", name="Model", exact=True)).to_be_visible()
    studio.page.context.set_offline(True)
    return studio


def test_the_stream_resumes_after_the_network_was_away(sd: Stack, away: Studio) -> None:
    job = submitted(sd, prompt="made while the laptop slept", num_inference_steps=2)
    sd.api.wait_until_done(job["id"])

    away.page.context.set_offline(False)

    expect(away.tile("made while the laptop slept")).to_be_visible()


def test_an_image_that_could_not_be_loaded_is_tried_again(sd: Stack, away: Studio) -> None:
    with away.page.expect_event("requestfailed", lambda request: "width=320" in request.url):
        submitted(sd, prompt="not loaded", num_inference_steps=2)

    away.page.context.set_offline(False)

    image = away.tile("not loaded").get_by_role("img")
    expect(image).to_have_js_property("complete", True)
    expect(image).not_to_have_js_property("naturalWidth", 0)


def test_a_list_that_could_not_be_read_is_read_again(sd: Stack, open_studio: Open) -> None:
    """Beside a stream that works: its events do not tell what happened before."""
    job = submitted(sd, prompt="before the page", num_inference_steps=2)
    sd.api.wait_until_done(job["id"])
    studio = open_studio(sd.api, "/health", allowed=("ERR_FAILED",))
    studio.page.route("**/api/jobs?*", lambda route: route.abort(), times=4)

    studio.open()

    expect(studio.tile("before the page")).to_be_visible()


def test_two_tabs_show_the_same_job(sd: Stack, studio: Studio, open_studio: Open) -> None:
    other = open_studio(sd.api, beside=studio)
    expect(other.gallery).to_be_visible()
    studio.set("Steps", "3")

    studio.generate("an image for two tabs")

    expect(studio.made("an image for two tabs")).to_be_visible()
    expect(other.tile("an image for two tabs")).to_be_visible()


def test_a_tab_shares_no_answer_of_the_event_stream_for_which_firefox_would_let_it_wait(studio: Studio) -> None:
    with studio.page.expect_request("**/api/events") as request:
        studio.page.reload()

    # What a browser sends with a request that it does not look up in its cache.
    assert request.value.header_value("cache-control") == "no-cache"


def test_a_mask_changes_only_what_was_painted(sd: Stack, studio: Studio) -> None:
    studio.set("Steps", "6")
    studio.generate("a yellow star on a purple background")
    expect(studio.made("a yellow star on a purple background")).to_be_visible()
    studio.stage.get_by_role("button", name="Use as input").click()
    studio.page.get_by_role("button", name="Paint a mask").click()
    canvas = studio.page.get_by_role("application", name=re.compile("Mask"))
    box = canvas.bounding_box()
    assert box is not None
    mouse = studio.page.mouse
    # The left half, in strokes from top to bottom.
    for x in (0.1, 0.2, 0.3, 0.4):
        mouse.move(box["x"] + x * box["width"], box["y"] + 2)
        mouse.down()
        mouse.move(box["x"] + x * box["width"], box["y"] + box["height"] - 2)
        mouse.up()
    studio.page.get_by_role("button", name="Use this mask").click()
    studio.set("Strength", "1")

    studio.generate("a red heart")

    expect(studio.made("a red heart")).to_be_visible()
    before, after = (pixels(sd, jobs_of(sd, prompt)[0]) for prompt in ("yellow star purple", "a red heart"))
    change = np.abs(before - after).mean(axis=(0, 2))
    assert change[:40].mean() > 10
    assert change[80:].mean() < 3


def test_a_pasted_image_becomes_the_input(studio: Studio) -> None:
    expect(studio.page.get_by_role("button", name="Choose images")).to_be_attached()
    studio.page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(64, 64);
          canvas.getContext("2d").fillRect(0, 0, 10, 10);
          const file = new File([await canvas.convertToBlob()], "pasted.png", { type: "image/png" });
          const data = new DataTransfer();
          data.items.add(file);
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }"""
    )

    expect(studio.page.get_by_role("img", name="Input 1: pasted.png, 64 by 64 pixels")).to_be_visible()
    studio.page.get_by_role("button", name="Remove input 1").click()
    expect(studio.page.get_by_role("img", name=re.compile("Input 1"))).to_have_count(0)


def test_markup_in_a_prompt_is_only_text(null: Stack, open_studio: Open) -> None:
    """The page would report an image that it cannot load, or a script that its policy forbids."""
    markup = "<img src=/nothing onerror=alert(1)><script>alert(2)</script>"
    generated(null.api, prompt=markup)
    studio = open_studio(null.api)

    studio.tile(markup).click()

    expect(studio.page.get_by_role("heading", name=markup)).to_be_visible()


def test_an_image_without_a_prompt_has_a_name(null: Stack, open_studio: Open) -> None:
    generated(null.api, prompt=" ", seed=77)
    studio = open_studio(null.api)

    studio.tile("Image without a prompt").first.click()

    viewer = studio.page.get_by_role("dialog", name="Image", exact=True)
    expect(viewer.get_by_role("img", name="Image without a prompt")).to_be_visible()
    expect(viewer.get_by_role("heading", name="Image without a prompt")).to_be_visible()


def test_a_failed_job_says_why(null: Stack, open_studio: Open) -> None:
    request = {"prompt": "a failure", "metadata": {"simulate": {"fail": "out-of-memory"}}}
    null.api.post("/api/jobs", request)

    studio = open_studio(null.api)

    expect(studio.gallery.get_by_role("button", name=re.compile(r"a failure .*memory"))).to_be_visible()
