"""Finding images in the gallery, and what can be done with them there."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.api.many_jobs import copy_job
from tests.api.native.test_purge import generated
from tests.stack import Stack
from tests.studio.conftest import Open, Studio
from tests.support.polling import wait_until

MANY = 2000
#: Rows in sight and beyond; far fewer than MANY.
MOST_TILES = 120


@pytest.fixture(scope="module")
def full(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service with two thousand jobs, the oldest of which is a needle."""
    with Stack(redis_url, tmp_path_factory.mktemp("full"), SD_BACKENDS="null") as stack:
        stack.start_worker("null")
        stack.start_api()
        needle = generated(stack.api, prompt="a needle", width=400, label="haystack")
        copy_job(stack, needle["id"], MANY, prompt="hay {}")
        yield stack


@pytest.fixture
def studio(full: Stack, open_studio: Open) -> Studio:
    return open_studio(full.api)


def made(stack: Stack, *prompts: str) -> list[dict[str, Any]]:
    return [generated(stack.api, prompt=prompt) for prompt in prompts]


def test_two_thousand_jobs_scroll_to_the_oldest(studio: Studio) -> None:
    expect(studio.tile(f"hay {MANY - 1}")).to_be_visible()

    frames = studio.page.evaluate(SCROLL_TO_END)

    expect(studio.tile("a needle")).to_be_in_viewport()
    assert studio.tiles().count() < MOST_TILES
    assert frames["most_tiles"] < MOST_TILES
    # Every frame shows a part of the list that is 600 pixels further down. At 60 frames per second each has 16 ms.
    assert frames["count"] > 50
    assert frames["median_work_ms"] < 16


#: Scrolls by 600 pixels in each frame and waits for more when there is none. Measures what the page does in a frame.
SCROLL_TO_END = """async () => {
  const list = document.querySelector("[aria-label=Jobs]");
  const next = () => new Promise(requestAnimationFrame);
  const work = [];
  let mostTiles = 0;
  for (let waited = 0; waited < 600; ) {
    const before = scrollY;
    scrollBy(0, 600);
    const start = performance.now();
    dispatchEvent(new Event("scroll"));
    await Promise.resolve();
    work.push(performance.now() - start);
    mostTiles = Math.max(mostTiles, list.childElementCount);
    await next();
    const isAtEnd = list.lastElementChild?.querySelector("button").ariaLabel === "a needle";
    if (scrollY === before && isAtEnd) break;
    waited = scrollY === before ? waited + 1 : 0;
  }
  work.sort((one, other) => one - other);
  return { count: work.length, median_work_ms: work[work.length >> 1], most_tiles: mostTiles };
}"""


def test_a_search_finds_what_is_not_on_the_page(studio: Studio) -> None:
    expect(studio.tile(f"hay {MANY - 1}")).to_be_visible()
    expect(studio.tile("a needle")).to_have_count(0)

    studio.page.keyboard.press("Escape")
    studio.page.get_by_role("searchbox").fill("NEEDLE")

    expect(studio.tile("a needle")).to_be_visible()
    expect(studio.tiles()).to_have_count(1)
    studio.page.get_by_role("searchbox").fill("haystack")
    expect(studio.tile("hay 7")).to_have_count(0)
    studio.page.get_by_role("searchbox").fill("nothing like it")
    expect(studio.page.get_by_text("No job matches.")).to_be_visible()


def test_stars_are_kept_and_can_be_filtered(full: Stack, studio: Studio) -> None:
    made(full, "a starred image")
    studio.tile("a starred image").hover()
    with studio.page.expect_response(re.compile("/pin$")):
        studio.gallery.get_by_role("button", name="Star a starred image").click()
    expect(studio.gallery.get_by_role("button", name="Remove the star from a starred image")).to_be_visible()

    studio.page.reload()
    studio.page.get_by_role("button", name="Only starred").click()

    expect(studio.tiles()).to_have_count(1)
    expect(studio.tile("a starred image")).to_be_visible()


def test_a_deleted_image_can_be_restored_with_its_star(full: Stack, studio: Studio) -> None:
    (job,) = made(full, "a mistake")
    studio.prolong_notices()
    studio.tile("a mistake").focus()
    with studio.page.expect_response(re.compile("/pin$")):
        # Also with Caps Lock.
        studio.page.keyboard.press("S")
    with studio.page.expect_response(re.compile("/pin$")):
        studio.page.keyboard.press("Delete")
    expect(studio.tile("a mistake")).to_have_count(0)
    focused = studio.page.locator(":focus").get_attribute("aria-label")

    with studio.page.expect_response(re.compile("/pin$")):
        studio.page.get_by_role("button", name="Undo").click()

    expect(studio.tile("a mistake")).to_be_visible()
    assert focused
    expect(studio.page.locator(":focus")).to_have_attribute("aria-label", focused)
    assert full.api.get(job["links"]["self"]).json()["pinned"]
    assert full.api.get(job["links"]["self"]).status_code == 200


def test_one_image_after_the_other_is_deleted_with_the_keyboard(full: Stack, studio: Studio) -> None:
    made(full, "to keep", "worse", "worst")
    studio.tile("worst").focus()
    said = studio.page.get_by_role("status")

    studio.page.keyboard.press("Delete")
    expect(studio.tile("worse")).to_be_focused()
    first = said.text_content()
    studio.page.keyboard.press("Delete")

    expect(studio.tile("to keep")).to_be_focused()
    # Screen readers speak only what has changed.
    assert said.text_content() != first
    expect(said).to_have_text("1 image deleted")
    for prompt in ("worse", "worst"):
        expect(studio.tile(prompt)).to_have_count(0)


def test_leaving_the_page_completes_a_deletion_even_of_a_starred_image(full: Stack, studio: Studio) -> None:
    (job,) = made(full, "an image to delete")
    studio.prolong_notices()
    studio.tile("an image to delete").focus()
    with studio.page.expect_response(re.compile("/pin$")):
        studio.page.keyboard.press("s")
    with studio.page.expect_response(re.compile("/pin$")):
        studio.page.keyboard.press("Delete")
    expect(studio.page.get_by_role("button", name="Undo")).to_be_visible()

    studio.page.goto("about:blank")

    wait_until(lambda: full.api.get(job["links"]["self"]).status_code == 404)
    wait_until(lambda: not full.find(f"{job['id']}*"))


def test_several_images_are_downloaded_as_one_file(full: Stack, studio: Studio, tmp_path: Path) -> None:
    jobs = made(full, "to download 1", "to download 2")
    for prompt in ("to download 1", "to download 2"):
        studio.tile(prompt).focus()
        studio.page.keyboard.press("x")
    expect(studio.page.get_by_text("2 jobs selected")).to_be_visible()

    with studio.page.expect_download() as download:
        studio.page.get_by_role("button", name="Download", exact=True).click()
    download.value.save_as(tmp_path / "images.zip")

    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"{job['id']}-0.png" for job in jobs)


def test_the_gallery_and_the_viewer_need_only_the_keyboard(full: Stack, studio: Studio) -> None:
    made(full, "third", "second", "first")
    keyboard = studio.page.keyboard
    expect(studio.tile("first")).to_be_visible()
    studio.tile("first").focus()
    keyboard.press("ArrowRight")
    expect(studio.tile("second")).to_be_focused()

    keyboard.press("Enter")
    viewer = studio.page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_role("img", name="second")).to_be_visible()
    keyboard.press("ArrowRight")
    expect(viewer.get_by_role("img", name="third")).to_be_visible()
    keyboard.press("ArrowLeft")
    keyboard.press("c")
    expect(viewer.get_by_role("slider", name=re.compile("first image"))).to_be_visible()
    keyboard.press("c")
    keyboard.press("+")
    keyboard.press("Escape")

    expect(viewer).to_have_count(0)
    expect(studio.tile("second")).to_be_focused()


def test_a_link_opens_an_image(full: Stack, open_studio: Open) -> None:
    (job,) = made(full, "a linked image")

    studio = open_studio(full.api, f"/#/job/{job['id']}/0")

    viewer = studio.page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_role("img", name="a linked image")).to_be_visible()
    viewer.get_by_role("button", name="Close").click()
    expect(viewer).to_have_count(0)


def test_images_of_other_programs_appear_at_once(full: Stack, studio: Studio) -> None:
    expect(studio.tiles().first).to_be_visible()

    made(full, "made by a script")

    expect(studio.tile("made by a script")).to_be_visible()


UNDER_THE_POINTER = "document.elementFromPoint(800, 400).closest('[data-job]')?.dataset.job"


def test_images_in_sight_stay_where_they_are_while_newer_ones_come(full: Stack, studio: Studio) -> None:
    expect(studio.tiles().first).to_be_visible()
    studio.page.mouse.move(800, 400)
    studio.page.mouse.wheel(0, 900)
    studio.page.wait_for_function(f"() => scrollY === 900 && {UNDER_THE_POINTER}")
    looked_at = studio.page.evaluate(UNDER_THE_POINTER)

    made(full, "made while somebody looks")
    show = studio.gallery.get_by_role("button", name="Show 1 new")
    expect(show).to_be_visible()

    assert studio.page.evaluate(UNDER_THE_POINTER) == looked_at
    show.click()
    expect(studio.tile("made while somebody looks")).to_be_in_viewport(ratio=1)
    expect(show).to_have_count(0)


def test_images_are_selected_up_to_another_one(full: Stack, studio: Studio) -> None:
    made(full, "the last of four", "of four", "also of four", "the first of four")
    studio.tile("the first of four").hover()
    studio.gallery.get_by_role("checkbox", name="Select the first of four").check()
    # It would move the others away below the pointer.
    made(full, "made while some are selected")

    studio.tile("the last of four").click(modifiers=["Shift"])

    expect(studio.page.get_by_text("4 jobs selected")).to_be_visible()
    expect(studio.tile("made while some are selected")).to_have_count(0)
    studio.page.get_by_role("button", name="Clear selection").click()
    expect(studio.tile("made while some are selected")).to_be_visible()


def test_an_image_that_did_not_come_is_asked_for_again(full: Stack, open_studio: Open) -> None:
    studio = open_studio(full.api, allowed=("ERR_FAILED",))
    failures = iter((True, True))
    images = re.compile(r"/images/0\?.*width=320")
    studio.page.route(images, lambda route: route.abort() if next(failures, False) else route.continue_())

    made(full, "on a bad network")

    image = studio.tile("on a bad network").get_by_role("img")
    expect(image).to_have_js_property("complete", True)
    expect(image).not_to_have_js_property("naturalWidth", 0)
    assert next(failures, None) is None


def test_an_image_made_while_the_list_is_read_is_not_lost(full: Stack, studio: Studio) -> None:
    prompts: list[str] = []

    def answer_late(route: Route) -> None:
        answer = route.fetch()
        prompts.append(f"made during read {len(prompts)}")
        made(full, prompts[-1])
        route.fulfill(response=answer)

    expect(studio.tiles().first).to_be_visible()
    studio.page.route(re.compile(r"/api/jobs\?limit"), answer_late)
    studio.page.reload()

    expect(studio.tile("made during read 0")).to_be_visible()
    for prompt in prompts:
        expect(studio.tile(prompt)).to_be_visible()


def test_an_image_that_is_no_longer_stored_says_so(full: Stack, open_studio: Open) -> None:
    (job,) = made(full, "lost with its disk")
    for file in full.find(f"*{job['id']}*"):
        file.unlink()

    # The last test of this file: later ones would see the image that is missing.
    studio = open_studio(full.api, allowed=("404",))

    expect(studio.tile("lost with its disk The image is no longer stored")).to_be_visible()
