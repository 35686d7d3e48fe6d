"""The form: what a model offers, what is sent for it, and masks."""

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Request, Route, expect

from shared.models.capabilities import RequestLimits
from shared.models.request_schema import request_schema
from tests.api.images import encoded, scene
from tests.api.native.test_purge import generated
from tests.stack import Stack
from tests.studio.conftest import Open, Studio, posted
from tests.worker.engines.bfl import conftest as cloud
from tests.worker.engines.bfl.provider import Provider
from worker.engines.null import NullEngine

PROMPT = "a castle"
INPUT = FilePayload(name="in.png", mimeType="image/png", buffer=encoded(scene(64, 64)))
bfl, running_provider = cloud.bfl, cloud.running_provider


@pytest.fixture
def studio(null: Stack, open_studio: Open) -> Studio:
    return open_studio(null.api)


def is_submission(request: Request) -> bool:
    return request.method == "POST" and request.url.endswith("/api/jobs")


def sent(studio: Studio, act: Callable[[], object]) -> dict[str, Any]:
    """The request that the page sends for what `act` does."""
    with studio.page.expect_request(is_submission) as request:
        act()
    return posted(request.value)


def test_generate_does_not_wait_for_the_models(null: Stack, open_studio: Open) -> None:
    studio = open_studio(null.api, "/health/live")
    held: list[Route] = []
    studio.page.evaluate("localStorage.setItem('imagegen-form', JSON.stringify({ num_inference_steps: 3 }))")
    studio.page.route("**/api/models", lambda route: held.append(route))

    def release() -> None:
        for route in held:
            route.continue_()

    studio.open()
    expect(studio.prompt).to_be_focused()

    studio.page.keyboard.type(PROMPT)
    studio.page.keyboard.press("Control+Enter")

    expect(studio.page.get_by_role("button", name="Sending…")).to_be_visible()
    body = sent(studio, release)
    assert (body["prompt"], body["model"], body["num_inference_steps"]) == (PROMPT, "null", 3)
    expect(studio.made(PROMPT)).to_be_visible()


def test_a_model_without_known_controls_takes_a_prompt_and_is_not_asked_at_once_again(
    null: Stack, open_studio: Open
) -> None:
    studio = open_studio(null.api, "/health/live")
    addresses: list[str] = []

    def answer(route: Route) -> None:
        addresses.append(route.request.url)
        route.fulfill(json={**route.fetch().json(), "capabilities": None})

    studio.page.route("**/api/models/null", answer)
    studio.open()

    studio.generate(PROMPT)

    expect(studio.made(PROMPT)).to_be_visible()
    # Each answer takes milliseconds, so that asking at once again would be many.
    assert len(addresses) <= 3


def test_sides_are_swapped_and_the_native_shape_is_marked(studio: Studio) -> None:
    expect(studio.page.get_by_role("button", name="1:1, 64 by 64, native")).to_have_attribute("aria-pressed", "true")
    studio.set("Width", "48")

    studio.page.get_by_role("button", name="Swap width and height").click()

    body = sent(studio, lambda: studio.generate(PROMPT))
    assert (body["width"], body["height"]) == (64, 48)
    studio.page.get_by_role("button", name="Reset size to the default").click()
    assert "width" not in sent(studio, lambda: studio.generate(PROMPT))
    # An empty field stands for the default, too.
    for value in ("48", ""):
        studio.set("Width", value)
    expect(studio.page.get_by_label("Width", exact=True)).to_have_value("64")


def test_loras_have_strengths(null: Stack, open_studio: Open) -> None:
    limits = RequestLimits(max_images=4, max_pixels=1 << 20, max_pixel_steps=1 << 30)
    with_loras = NullEngine.capabilities.model_copy(update={"loras": ("ink", "oil"), "ignored": ()})
    studio = open_studio(null.api, "/health/live", allowed=("422",))
    schema = request_schema(with_loras, limits)
    studio.page.route(
        "**/api/models/null", lambda route: route.fulfill(json={**route.fetch().json(), "capabilities": schema})
    )
    studio.open()
    expect(studio.page.get_by_role("spinbutton", name="Seed")).to_be_visible()
    studio.page.get_by_text("More settings").click()

    studio.page.get_by_role("combobox", name="Add a LoRA").select_option("ink")
    studio.page.get_by_role("combobox", name="Add a LoRA").select_option("oil")
    studio.page.get_by_role("spinbutton", name="Strength of ink").fill("0.5")
    studio.page.get_by_role("button", name="Remove oil").click()

    assert sent(studio, lambda: studio.generate(PROMPT))["loras"] == [{"name": "ink", "scale": 0.5}]


def test_a_prompt_that_was_not_sent_comes_back_after_earlier_ones(studio: Studio) -> None:
    for prompt in ("first", "second"):
        studio.generate(prompt)
        expect(studio.made(prompt)).to_be_visible()
    studio.prompt.fill("not sent yet")

    for key, shown in (
        ("Up", "second"),
        ("Up", "first"),
        ("Up", "first"),
        ("Down", "second"),
        ("Down", "not sent yet"),
    ):
        studio.prompt.press(f"Alt+Arrow{key}")
        expect(studio.prompt).to_have_value(shown)


def test_a_double_click_makes_one_job(studio: Studio) -> None:
    held: list[Route] = []
    studio.page.route("**/api/jobs", lambda route: held.append(route))
    studio.prompt.fill(PROMPT)
    expect(studio.page.get_by_role("spinbutton", name="Seed")).to_be_visible()

    studio.page.get_by_role("button", name="Generate").dblclick()
    with studio.page.expect_request("**/health/live"):
        studio.page.evaluate("fetch('/health/live')")

    assert len(held) == 1
    held[0].continue_()
    expect(studio.made(PROMPT)).to_be_visible()


def test_a_number_counts_that_is_sent_from_its_field(studio: Studio) -> None:
    studio.prompt.fill(PROMPT)
    studio.page.get_by_role("spinbutton", name="Seed").press_sequentially("4242")

    assert sent(studio, lambda: studio.page.keyboard.press("ControlOrMeta+Enter"))["seed"] == 4242


def test_nothing_to_show_is_said_in_words(studio: Studio) -> None:
    expect(studio.page.get_by_role("spinbutton", name="Seed")).to_be_visible()

    studio.prompt.press("ControlOrMeta+Enter")

    expect(studio.page.get_by_role("alert")).to_have_text("Say what the image should show.")
    expect(studio.prompt).to_have_accessible_description("Say what the image should show.")


def test_every_error_is_shown_at_its_field_until_that_or_the_model_is_changed(null: Stack, open_studio: Open) -> None:
    studio = open_studio(null.api, allowed=("422",))
    page = studio.page
    width, height, steps = (page.get_by_label(label, exact=True) for label in ("Width", "Height", "Steps as a number"))
    studio.set("Width", "99999")
    studio.set("Steps as a number", "9999")
    page.get_by_text("More settings").click()
    page.route(
        "**/api/jobs", lambda route: route.continue_(post_data={**route.request.post_data_json, "webhook_url": 1})
    )

    studio.generate(PROMPT)

    expect(width).to_have_accessible_description("may be at most 8192")
    expect(width).to_be_focused()
    expect(steps).to_have_accessible_description("may be at most 150")
    # What the form has no field for.
    expect(page.locator(".create-bar").get_by_role("alert")).to_have_text("webhook_url: must be text.")
    width.fill("64")
    width.blur()
    expect(width).not_to_have_attribute("aria-invalid", "true")
    page.unroute("**/api/jobs")
    page.get_by_role("button", name="Generate").click()
    # Also where it was out of sight.
    expect(steps).to_be_focused()
    expect(page.get_by_role("alert")).to_have_text("may be at most 150")
    expect(height).not_to_have_attribute("aria-invalid", "true")
    with page.expect_response("**/api/models/null/red"):
        page.get_by_role("combobox", name="Model", exact=True).select_option("null/red")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(steps).to_be_visible()


def test_everything_of_a_job_without_inputs_is_taken_over(null: Stack, studio: Studio) -> None:
    generated(null.api, prompt="without an input")
    studio.page.get_by_label("Choose images").set_input_files(INPUT)
    expect(studio.page.get_by_role("img", name=re.compile("Input 1"))).to_be_visible()

    studio.tile("without an input").first.click()
    studio.page.get_by_role("button", name="Everything").click()

    expect(studio.prompt).to_have_value("without an input")
    assert "image" not in sent(studio, lambda: studio.page.keyboard.press("ControlOrMeta+Enter"))


def test_a_prompt_that_is_replaced_can_be_brought_back(null: Stack, studio: Studio) -> None:
    generated(null.api, prompt="to be reused")
    studio.prompt.fill("a long draft")
    studio.set("Seed", "5")
    studio.tile("to be reused").first.click()
    studio.page.get_by_role("button", name="Everything").click()
    expect(studio.prompt).to_have_value("to be reused")

    studio.page.get_by_role("button", name="Undo").click()

    expect(studio.prompt).to_have_value("a long draft")
    expect(studio.page.get_by_role("spinbutton", name="Seed")).to_have_value("5")
    expect(studio.page.get_by_role("button", name="Undo")).to_have_count(0)


def coverage(data_url: str) -> float:
    """The white share of a mask, all of which is black or white."""
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2]))).convert("L"))
    assert np.isin(mask, (0, 255)).mean() > 0.9
    return float((mask > 127).mean())


def test_a_mask_is_painted_inverted_undone_and_erased_with_the_keyboard(studio: Studio) -> None:
    page = studio.page
    expect(page.get_by_role("button", name="Choose images")).to_be_attached()
    page.get_by_label("Choose images").set_input_files(INPUT)
    expect(page.get_by_role("img", name="Input 1: in.png, 64 by 64 pixels")).to_be_visible()

    page.get_by_role("button", name="Paint a mask").click()
    canvas = page.get_by_role("application")
    around = "(canvas) => canvas.nextElementSibling.getBoundingClientRect().left"
    left = canvas.evaluate(around)
    canvas.press("ArrowRight")
    assert canvas.evaluate(around) > left
    canvas.press(" ")
    # Beside the dialog, where strokes begin that are to cover an edge.
    page.mouse.click(5, 5)
    page.get_by_role("button", name="Invert").click()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Use this mask").click()
    dot = coverage(sent(studio, lambda: studio.generate(PROMPT))["mask"])
    assert 0 < dot < 0.1

    page.get_by_role("button", name="Change the mask").click()
    page.get_by_role("button", name="Invert").click()
    page.get_by_role("button", name="Use this mask").click()
    assert coverage(sent(studio, lambda: studio.generate(PROMPT))["mask"]) == pytest.approx(1 - dot, abs=0.03)

    page.get_by_role("button", name="Change the mask").click()
    page.get_by_role("button", name="Invert").click()
    page.get_by_role("button", name="Eraser").click()
    page.get_by_role("slider", name="Size").fill("32")
    page.get_by_role("application").press(" ")
    page.get_by_role("button", name="Use this mask").click()
    assert "mask" not in sent(studio, lambda: studio.generate(PROMPT))


def test_a_paid_model_says_what_it_costs_and_has_only_its_own_controls(
    stack: Stack, bfl: Provider, open_studio: Open
) -> None:
    stack.settings |= cloud.cloud_settings(bfl)
    stack.start_worker("flux-api")
    stack.start_api()
    studio = open_studio(stack.api)
    expect(studio.page.get_by_text("Its price is known after the first image. 123.5 credits are left.")).to_be_visible()
    expect(studio.page.get_by_role("spinbutton", name="Seed")).to_be_visible()
    expect(studio.page.get_by_label("Negative prompt")).to_have_count(0)

    studio.generate(PROMPT)
    expect(studio.made(PROMPT)).to_be_visible()

    expect(studio.page.get_by_text("Costs about 3 credits")).to_be_visible()
    studio.page.get_by_label("Images", exact=True).fill("2")
    studio.page.get_by_label("Images", exact=True).blur()
    expect(studio.page.get_by_text("Costs about 6 credits")).to_be_visible()
    studio.page.get_by_label("Images", exact=True).fill("99")
    studio.page.get_by_label("Images", exact=True).blur()
    expect(studio.page.get_by_text("Costs about 12 credits")).to_be_visible()
