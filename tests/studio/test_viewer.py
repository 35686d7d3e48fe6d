"""The viewer: images enlarged, moved and compared, with the mouse and with the keyboard."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.api.native.test_purge import generated
from tests.stack import Stack
from tests.studio.conftest import Open, Studio


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, tmp_path_factory.mktemp("viewed"), SD_BACKENDS="null") as stack:
        stack.start_worker("null")
        stack.start_api()
        generated(stack.api, prompt="older")
        generated(stack.api, prompt="newer")
        yield stack


@pytest.fixture
def studio(stack: Stack, open_studio: Open) -> Studio:
    studio = open_studio(stack.api)
    studio.tile("newer").click()
    expect(viewed(studio, "newer")).to_be_visible()
    return studio


def viewed(studio: Studio, prompt: str) -> Locator:
    return studio.page.get_by_role("dialog", name="Image").get_by_role("img", name=prompt, exact=True)


def box(image: Locator) -> tuple[float, float, float]:
    """Left edge, top edge and width."""
    bounds = image.bounding_box()
    assert bounds is not None
    return bounds["x"], bounds["y"], bounds["width"]


def test_an_image_is_enlarged_with_buttons_keys_and_the_wheel(studio: Studio) -> None:
    page, image = studio.page, viewed(studio, "newer")
    _, _, full = box(image)
    expect(page.get_by_role("button", name="Zoom out")).to_be_disabled()

    page.get_by_role("button", name="Zoom in").click()
    assert box(image)[2] == pytest.approx(1.5 * full)
    page.keyboard.press("+")
    assert box(image)[2] == pytest.approx(2.25 * full)
    page.keyboard.press("0")
    assert box(image)[2] == pytest.approx(full)
    image.hover()
    page.mouse.wheel(0, -100)
    expect(page.get_by_role("button", name="Zoom out")).to_be_enabled()
    assert box(image)[2] == pytest.approx(1.15 * full)


def test_an_enlarged_image_follows_the_pointer_until_the_next_one_is_shown(studio: Studio) -> None:
    page, image = studio.page, viewed(studio, "newer")
    image.dblclick()
    left, top, width = box(image)
    centre = page.viewport_size
    assert centre is not None
    middle = centre["width"] / 3, centre["height"] / 2

    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] - 40)
    page.mouse.up()
    page.mouse.move(*middle)

    assert box(image) == pytest.approx((left + 60, top - 40, width))
    page.keyboard.press("ArrowRight")
    expect(viewed(studio, "older")).to_be_visible()
    assert box(viewed(studio, "older"))[2] == pytest.approx(width / 2)


def test_two_images_are_compared_with_a_slider(studio: Studio) -> None:
    page = studio.page

    page.get_by_role("button", name="Compare with the next image").click()
    page.get_by_role("slider", name=re.compile("first image")).fill("20")

    expect(viewed(studio, "older")).to_be_visible()
    expect(viewed(studio, "newer")).to_have_css("clip-path", "inset(0px 80% 0px 0px)")
