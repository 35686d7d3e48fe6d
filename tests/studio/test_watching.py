"""Watching jobs: several at a time, their places in the queue, and what the tab itself tells."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.api.native.test_purge import generated
from tests.stack import Stack
from tests.studio.conftest import Open, Studio, posted

LONG = {"num_inference_steps": 100, "metadata": {"simulate": {"seconds": 100}}}


@pytest.fixture(scope="module")
def busy(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A worker for itself, whose jobs run as long as a test wants."""
    with Stack(redis_url, tmp_path_factory.mktemp("busy"), SD_BACKENDS="null") as stack:
        stack.start_worker("null")
        stack.start_api()
        yield stack


@pytest.fixture
def studio(busy: Stack, open_studio: Open) -> Studio:
    return open_studio(busy.api)


def submitted(stack: Stack, **request: Any) -> dict[str, Any]:
    job: dict[str, Any] = stack.api.post("/api/jobs", request).json()
    return job


def make_long(route: Route) -> None:
    """It runs until it is cancelled."""
    route.continue_(post_data={**posted(route.request), **LONG})


def test_several_jobs_are_watched_and_cancelled_one_by_one(studio: Studio) -> None:
    page = studio.page
    page.route("**/api/jobs", make_long)
    studio.generate("the first")
    expect(studio.stage.get_by_text(re.compile(r"Step \d+ of 100"))).to_be_visible()
    below = page.get_by_role("searchbox").bounding_box()
    studio.generate("the second")
    expect(studio.stage.get_by_text(re.compile("Next in the queue"))).to_be_visible()
    # A bar that does not know how far the job is.
    waiting = studio.stage.get_by_role("progressbar", name="Progress of the second")
    expect(waiting).to_have_js_property("position", -1)
    others = studio.stage.get_by_role("list", name="Other jobs of this tab")
    expect(page).to_have_title(re.compile("% · imagegen"))
    expect(page.get_by_text("Jobs: 1 running, 1 waiting")).to_be_visible()
    # Nothing below moves when another job begins or ends.
    assert page.get_by_role("searchbox").bounding_box() == below

    others.get_by_role("button", name="Cancel the first").click()
    expect(studio.stage.get_by_text(re.compile(r"Step \d+ of 100"))).to_be_visible()
    expect(others).to_have_count(0)
    page.keyboard.press("Escape")

    expect(studio.stage.get_by_text("Cancelled", exact=True)).to_be_visible()
    expect(page).to_have_title("imagegen")
    # They have nothing to show.
    cancelled = studio.gallery.get_by_role("button", name=re.compile("^the (first|second) Cancelled"))
    expect(studio.gallery.get_by_role("button", name=re.compile("^the (first|second)"))).to_have_count(0)
    page.get_by_role("combobox", name="State").select_option("Cancelled")
    expect(cancelled).to_have_count(2)
    prompt = cancelled.first.get_by_text("the second").bounding_box()
    assert prompt is not None
    assert prompt["width"] > 50
    with page.expect_response(re.compile(r"/api/jobs\?limit")):
        page.get_by_role("combobox", name="State").select_option("All but cancelled")
    expect(cancelled).to_have_count(0)


def test_when_the_shown_job_is_cancelled_the_oldest_other_one_of_the_tab_is_shown(studio: Studio) -> None:
    page = studio.page
    page.route("**/api/jobs", make_long)
    step = studio.stage.get_by_text(re.compile(r"Step \d+ of 100"))
    studio.generate("goes on")
    expect(step).to_be_visible()
    others = studio.stage.get_by_role("listitem")
    for count, prompt in enumerate(("waits", "not wanted"), 1):
        studio.generate(prompt)
        expect(others).to_have_count(count)

    page.keyboard.press("Escape")

    expect(step).to_be_visible()
    expect(studio.stage.get_by_text("not wanted")).to_have_count(0)
    studio.stage.get_by_role("button", name="Cancel waits").click()
    expect(others).to_have_count(0)
    page.keyboard.press("Escape")
    expect(studio.stage.get_by_text("Cancelled", exact=True)).to_be_visible()


def test_a_waiting_job_says_how_many_are_ahead_as_they_become_fewer(busy: Stack, studio: Studio) -> None:
    ahead = [submitted(busy, prompt=f"ahead {number}", **LONG) for number in range(3)]
    studio.generate("waiting")
    expect(studio.stage.get_by_text(re.compile("^2 jobs ahead"))).to_be_visible()

    busy.api.delete(ahead[1]["links"]["self"])

    expect(studio.stage.get_by_text(re.compile("^1 job ahead"))).to_be_visible()
    for job in (ahead[2], ahead[0]):
        busy.api.delete(job["links"]["self"])
    expect(studio.made("waiting")).to_be_visible()


def test_a_waiting_job_says_about_how_long_it_waits(busy: Stack, studio: Studio) -> None:
    quick = {**LONG, "metadata": {"simulate": {"seconds": 2}}}
    generated(busy.api, prompt="tells how long jobs of so many steps take", **quick)
    ahead = [submitted(busy, prompt="ahead", **LONG) for _ in range(2)]

    studio.generate("waiting for a while")

    expect(studio.stage.get_by_text(re.compile(r"^1 job ahead, about [\d.]+ s"))).to_be_visible()
    for job in reversed(ahead):
        busy.api.delete(job["links"]["self"])
    expect(studio.made("waiting for a while")).to_be_visible()


def test_nothing_moves_by_itself_for_people_who_do_not_want_it(busy: Stack, studio: Studio) -> None:
    moving = "document.getAnimations().length"
    jobs = [submitted(busy, prompt=f"long {number}", **LONG) for number in range(2)]
    expect(studio.gallery.get_by_role("progressbar")).to_have_count(2)

    assert studio.page.evaluate(moving) == 0
    studio.page.emulate_media(reduced_motion="no-preference")
    assert studio.page.evaluate(moving) > 0
    for job in jobs:
        busy.api.delete(job["links"]["self"])


def test_a_job_tells_how_far_its_model_is_loaded(studio: Studio) -> None:
    studio.record()
    studio.page.get_by_role("combobox", name="Model", exact=True).select_option("null/slow")
    studio.generate("with a slow model")

    expect(studio.made("with a slow model")).to_be_visible()
    assert re.search(r"Loading the model: \d+ MB of 1.0 GB", studio.recorded())


def test_the_tab_tells_that_all_is_done(studio: Studio) -> None:
    icon = "document.querySelector('link[rel=icon]').href"
    # Somebody looks at something else.
    studio.page.evaluate("document.hasFocus = () => false")

    studio.generate("while nobody looks")

    expect(studio.page).to_have_title("Done · imagegen")
    assert studio.page.evaluate(icon).endswith("/icon-done.svg")
    studio.page.evaluate("dispatchEvent(new Event('focus'))")
    expect(studio.page).to_have_title("imagegen")
    assert studio.page.evaluate(icon).endswith("/icon.svg")


def test_a_job_that_ends_before_its_answer_comes_is_told_as_well(busy: Stack, studio: Studio) -> None:
    def answer_late(route: Route) -> None:
        answer = route.fetch()
        busy.api.wait_until_done(answer.json()["id"])
        route.fulfill(response=answer)

    studio.page.evaluate("document.hasFocus = () => false")
    studio.page.route(
        "**/api/jobs", lambda route: answer_late(route) if route.request.method == "POST" else route.continue_()
    )

    studio.generate("quicker than its answer")

    expect(studio.page).to_have_title("Done · imagegen")


def test_a_job_runs_again_and_its_images_are_saved(busy: Stack, studio: Studio) -> None:
    job = generated(busy.api, prompt="once more", seed=8)
    studio.tile("once more").click()
    viewer = studio.page.get_by_role("dialog", name="Image")
    with studio.page.expect_download() as download:
        viewer.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == f"{job['id']}-0.png"

    viewer.get_by_role("button", name="Again").click()

    expect(studio.made("once more")).to_be_visible()
    newest, *_ = busy.api.get("/api/jobs?limit=1").json()["jobs"]
    assert newest["id"] != job["id"]
    assert newest["request"] == job["request"]


def test_the_gallery_is_filtered_by_state_and_model(busy: Stack, studio: Studio) -> None:
    generated(busy.api, prompt="drawn in red", model="null/red")
    failed = submitted(busy, prompt="gone wrong", metadata={"simulate": {"fail": "out-of-memory"}})
    busy.api.wait_until_done(failed["id"])

    studio.page.get_by_role("combobox", name="Model of the images").select_option("null/red")
    expect(studio.tiles()).to_have_count(1)
    expect(studio.tile("drawn in red")).to_be_visible()
    studio.page.get_by_role("combobox", name="Model of the images").select_option("All models")
    studio.page.get_by_role("combobox", name="State").select_option("Failed")

    expect(studio.tiles()).to_have_count(1)
    expect(studio.gallery.get_by_text(re.compile("gone wrong"))).to_be_visible()


def test_a_reload_goes_on_with_the_job_of_the_tab(studio: Studio) -> None:
    studio.page.route("**/api/jobs", make_long)
    studio.generate("before and after")
    expect(studio.stage.get_by_text(re.compile(r"Step \d+ of 100"))).to_be_visible()

    studio.page.reload()

    expect(studio.stage.get_by_text(re.compile(r"Step \d+ of 100"))).to_be_visible()
    expect(studio.prompt).to_have_value("before and after")
    expect(studio.gallery.get_by_role("button", name=re.compile("before and after"))).to_be_visible()
    studio.stage.get_by_role("button", name="Cancel").click()
    expect(studio.stage.get_by_text("Cancelled", exact=True)).to_be_visible()


def test_a_job_of_another_program_is_watched_and_cancelled_in_the_viewer(busy: Stack, studio: Studio) -> None:
    generated(busy.api, prompt="before that")
    submitted(busy, prompt="of a script", **LONG)
    studio.gallery.get_by_role("button", name=re.compile("of a script")).click()
    viewer = studio.page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_text(re.compile(r"Step \d+ of 100"))).to_be_visible()

    studio.page.keyboard.press("Delete")
    expect(studio.page.get_by_role("status")).to_contain_text("Only finished jobs can be deleted")
    expect(viewer.get_by_text("of a script")).to_be_visible()
    viewer.get_by_role("button", name="Cancel").click()

    expect(viewer.get_by_text("Cancelled", exact=True)).to_be_visible()
    viewer.get_by_role("button", name="Next image", exact=True).click()
    expect(viewer.get_by_role("img", name="before that")).to_be_visible()


def test_escape_in_the_search_cancels_nothing(studio: Studio) -> None:
    cancelled: list[str] = []
    studio.page.on("request", lambda request: cancelled.append(request.url) if request.method == "DELETE" else None)
    studio.page.route("**/api/jobs", make_long)
    studio.generate("not to be cancelled")
    expect(studio.stage.get_by_text(re.compile(r"Step \d+ of 100"))).to_be_visible()
    studio.page.get_by_role("searchbox").fill("not")

    studio.page.keyboard.press("Escape")

    expect(studio.page.get_by_role("searchbox")).to_have_value("")
    studio.stage.get_by_role("button", name="Cancel").click()
    expect(studio.stage.get_by_text("Cancelled", exact=True)).to_be_visible()
    assert len(cancelled) == 1


def test_escape_cancels_no_job_that_is_not_shown(busy: Stack, studio: Studio) -> None:
    page = studio.page
    page.route("**/api/jobs", make_long)
    studio.generate("seen later")
    expect(studio.stage.get_by_text(re.compile(r"Step \d+ of 100"))).to_be_visible()
    cancelled: list[str] = []
    page.on("request", lambda request: cancelled.append(request.url) if request.method == "DELETE" else None)

    page.get_by_role("link", name="Service").click()
    expect(page.get_by_role("heading", name="Workers")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Studio").click()

    expect(studio.stage.get_by_role("button", name="Cancel")).to_be_visible()
    assert cancelled == []
    page.keyboard.press("Escape")
    expect(studio.stage.get_by_text("Cancelled", exact=True)).to_be_visible()


def set_hidden(studio: Studio, is_hidden: bool) -> None:
    """As when somebody looks at another tab."""
    script = "(isHidden) => { window.isHidden = isHidden; document.dispatchEvent(new Event('visibilitychange')); }"
    studio.page.evaluate(script, is_hidden)


def test_a_tab_that_nobody_sees_leaves_its_connection_to_others_unless_it_waits(busy: Stack, open_studio: Open) -> None:
    """Browsers have six for all tabs."""
    studio = open_studio(busy.api, "/health/live", is_new=True)
    studio.page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => window.isHidden ?? false })")
    studio.open().page.route("**/api/jobs", make_long)
    studio.generate("while another tab is seen")
    expect(studio.stage.get_by_text(re.compile(r"Step \d+ of 100"))).to_be_visible()
    job = busy.api.get("/api/jobs?limit=1").json()["jobs"][0]

    set_hidden(studio, True)
    with studio.page.expect_event("requestfailed", lambda request: request.url.endswith("/api/events")):
        busy.api.delete(job["links"]["self"])

    expect(studio.stage.get_by_text("Cancelled", exact=True)).to_be_visible()
    generated(busy.api, prompt="made meanwhile")
    set_hidden(studio, False)
    expect(studio.tile("made meanwhile")).to_be_visible()
