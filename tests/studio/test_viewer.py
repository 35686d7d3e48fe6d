"""The viewer: images enlarged, moved and compared, with the mouse and with the keyboard."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.api.native.test_purge import generated
from tests.stack import Stack
from tests.studio.conftest import PHONE, Open, Studio


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
    left, top, _ = box(image)
    x, y = left + full / 4, top + full / 4
    page.mouse.move(x, y)
    page.mouse.wheel(0, -100)
    expect(page.get_by_role("button", name="Zoom out")).to_be_enabled()
    # What is below the pointer stays there.
    assert box(image) == pytest.approx((x - 1.15 * full / 4, y - 1.15 * full / 4, 1.15 * full))


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


def test_a_failed_job_between_two_images_is_not_compared(stack: Stack, open_studio: Open) -> None:
    failed = stack.api.post("/api/jobs", {"prompt": "none", "metadata": {"simulate": {"fail": "out-of-memory"}}}).json()
    newest = generated(stack.api, prompt="newest")
    studio = open_studio(stack.api)
    studio.tile("newest").click()

    studio.page.get_by_role("button", name="Compare with the next image").click()

    expect(viewed(studio, "newest")).to_be_visible()
    expect(viewed(studio, "newer")).to_be_visible()
    for job in (failed, newest):
        stack.api.delete(f"{job['links']['self']}?purge=true")


def test_a_job_deleted_in_the_viewer_is_restored_there(studio: Studio) -> None:
    page, said = studio.page, studio.page.get_by_role("status")
    studio.prolong_notices()
    page.keyboard.press("Delete")
    expect(viewed(studio, "older")).to_be_visible()
    expect(said).to_have_text("1 image deleted")

    page.get_by_role("button", name="Undo").click()

    expect(said).to_have_text("Restored")
    expect(page.get_by_role("dialog", name="Image")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(viewed(studio, "newer")).to_be_visible()


def test_the_next_job_is_shown_when_one_with_several_images_is_deleted(stack: Stack, open_studio: Open) -> None:
    generated(stack.api, prompt="a pair", num_images=2)
    studio = open_studio(stack.api)
    studio.tile("a pair").click()

    studio.page.get_by_role("button", name="Delete all 2 images").click()

    # Leaving the page completes the deletion.
    expect(viewed(studio, "newer")).to_be_visible()


def test_closing_the_viewer_leaves_nothing_to_go_back_through(stack: Stack, open_studio: Open) -> None:
    studio = open_studio(stack.api, "/health/live").open()
    for prompt in ("newer", "older"):
        studio.tile(prompt).click()
        expect(viewed(studio, prompt)).to_be_visible()
        studio.page.keyboard.press("Escape")
        expect(viewed(studio, prompt)).to_have_count(0)
        studio.page.wait_for_function("() => !location.hash.includes('job')")

    studio.page.go_back()

    assert studio.page.url.endswith("/health/live")


def test_an_address_that_changes_while_the_page_starts_is_shown(stack: Stack, open_studio: Open) -> None:
    newest, *_ = stack.api.get("/api/jobs?q=newer").json()["jobs"]
    studio = open_studio(stack.api, "/health/live", is_new=True)
    studio.page.add_init_script(f"""
      new MutationObserver((_, observer) => {{
        if (!document.querySelector("main")) return;
        observer.disconnect();
        location.hash = "#/job/{newest["id"]}/0";
      }}).observe(document, {{ subtree: true, childList: true }});
    """)

    studio.open()

    expect(viewed(studio, "newer")).to_be_visible()


def test_going_back_closes_the_viewer(studio: Studio) -> None:
    studio.page.go_back()

    expect(viewed(studio, "newer")).to_have_count(0)
    expect(studio.tile("newer")).to_be_focused()


def test_a_request_is_copied_where_pages_have_no_clipboard(stack: Stack, open_studio: Open) -> None:
    studio = open_studio(stack.api, "/health/live", is_new=True)
    # As without HTTPS.
    studio.page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    studio.open().tile("newer").click()

    studio.page.get_by_role("button", name="JSON").click()

    expect(studio.page.get_by_role("status")).to_have_text("Copied as JSON")
    studio.page.keyboard.press("Escape")
    studio.prompt.fill("")
    studio.prompt.press("ControlOrMeta+V")
    expect(studio.prompt).to_have_value(re.compile('"prompt": "newer"'))


def test_a_variation_is_shown_when_it_is_asked_for_by_its_key(stack: Stack, studio: Studio) -> None:
    def jobs() -> set[str]:
        return {job["links"]["self"] for job in stack.api.get("/api/jobs").json()["jobs"]}

    before = jobs()

    studio.page.keyboard.press("v")

    expect(studio.made("newer")).to_be_visible()
    expect(studio.page.get_by_role("dialog")).to_have_count(0)
    (variation,) = jobs() - before
    stack.api.delete(f"{variation}?purge=true")


def test_a_job_that_was_deleted_elsewhere_is_said_to_be_deleted(stack: Stack, open_studio: Open) -> None:
    job = generated(stack.api, prompt="deleted by a script")
    studio = open_studio(stack.api, allowed=("404",))
    expect(studio.tile("deleted by a script")).to_be_visible()
    stack.api.delete(f"{job['links']['self']}?purge=true")

    studio.tile("deleted by a script").click()

    expect(studio.page.get_by_role("status")).to_have_text("This job is deleted.")
    expect(studio.page.get_by_role("dialog")).to_have_count(0)
    expect(studio.tile("deleted by a script")).to_have_count(0)


def test_an_image_beside_a_withheld_one_has_its_place_among_the_others(stack: Stack, open_studio: Open) -> None:
    job = generated(stack.api, prompt="half withheld", num_images=2, metadata={"simulate": {"flag": 1}})
    studio = open_studio(stack.api)
    studio.tile("half withheld").click()
    expect(viewed(studio, "half withheld")).to_be_visible()

    studio.page.get_by_role("button", name="Next image", exact=True).click()

    expect(viewed(studio, "newer")).to_be_visible()
    stack.api.delete(f"{job['links']['self']}?purge=true")


def test_an_image_that_is_not_in_the_list_has_neighbours_there(studio: Studio) -> None:
    studio.page.keyboard.press("Escape")
    studio.page.get_by_role("searchbox").fill("older")
    expect(studio.tiles()).to_have_count(1)

    studio.page.go_forward()

    expect(viewed(studio, "newer")).to_be_visible()
    expect(studio.page.get_by_role("button", name="Previous image", exact=True)).to_have_count(0)
    studio.page.keyboard.press("ArrowRight")
    expect(viewed(studio, "older")).to_be_visible()


def test_a_finger_turns_to_the_next_image_and_scrolls_to_its_data(stack: Stack, open_studio: Open) -> None:
    studio = open_studio(stack.api, viewport=PHONE, has_touch=True, is_mobile=True)
    studio.tile("newer").click()
    viewer = studio.page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_role("button", name="JSON")).not_to_be_in_viewport()
    session = studio.page.context.new_cdp_session(studio.page)

    def move_finger(*points: tuple[int, int]) -> None:
        for step, (x, y) in enumerate(points):
            kind = "touchMove" if step else "touchStart"
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    move_finger((250, 300), (200, 300), (150, 300))
    expect(viewed(studio, "older")).to_be_visible()
    move_finger((100, 300), (150, 300), (200, 300))
    expect(viewed(studio, "newer")).to_be_visible()

    expect(viewer.get_by_role("button", name="JSON")).to_be_visible()
    move_finger(*((180, y) for y in range(400, 20, -20)))

    studio.page.wait_for_function("() => document.querySelector('dialog').scrollTop > 100")
