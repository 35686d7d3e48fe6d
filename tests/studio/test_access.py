"""Keys, read-only keys, and services, networks and browsers that fail."""

import sys
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Route, expect

from tests.api.clients import ADMIN, ALICE, ALICE_READ_ONLY, BOB, KEYS, Client
from tests.api.native.test_purge import generated
from tests.stack import Stack
from tests.studio.conftest import PHONE, Open, Studio
from tests.support.polling import wait_until

REFUSED = ("status of 401",)
#: Of a server that is killed before, during and after a response.
AWAY = (
    "ERR_CONNECTION_REFUSED",
    "ERR_CONNECTION_RESET",
    "ERR_EMPTY_RESPONSE",
    "ERR_INCOMPLETE_CHUNKED",
    "ERR_CONTENT_LENGTH_MISMATCH",
)


def log_in(studio: Studio, key: str) -> Studio:
    studio.page.get_by_label("API key").fill(key)
    studio.page.get_by_role("button", name="Log in").click()
    return studio


@pytest.fixture
def studio(keyed: Stack, open_studio: Open) -> Studio:
    return open_studio(keyed.api)


def test_a_service_with_keys_asks_for_one_and_shows_its_images(keyed: Stack, studio: Studio) -> None:
    own, other = Client(keyed.api, ALICE).generate(prompt="alice's"), Client(keyed.api, BOB).generate(prompt="bob's")
    expect(studio.page.get_by_label("API key")).to_be_focused()

    log_in(studio, ALICE)

    expect(studio.tile("alice's").first).to_be_visible()
    expect(studio.tile("bob's")).to_have_count(0)
    loaded = "() => [...document.querySelectorAll('.tile img')].every((image) => image.complete && image.naturalWidth)"
    studio.page.wait_for_function(loaded)
    assert own["owner"] != other["owner"]


def test_a_key_is_kept_in_the_tab_and_in_no_address(keyed: Stack, open_studio: Open) -> None:
    studio = open_studio(keyed.api)
    addresses: list[str] = []
    studio.page.on("request", lambda request: addresses.append(request.url))
    log_in(studio, ALICE)
    studio.generate("a secret")
    expect(studio.made("a secret")).to_be_visible()

    studio.page.reload()

    expect(studio.tile("a secret").first).to_be_visible()
    assert not [address for address in addresses if ALICE in address]
    stored = studio.page.evaluate("JSON.stringify([Object.entries(localStorage), document.cookie])")
    assert ALICE not in stored


@pytest.mark.parametrize("key", ["a wrong key", "ein falscher Schlüssel"])
def test_a_wrong_key_is_refused_in_words(keyed: Stack, open_studio: Open, key: str) -> None:
    studio = log_in(open_studio(keyed.api, allowed=REFUSED), key)

    expect(studio.page.get_by_role("alert")).to_have_text("The service does not accept this key.")
    log_in(studio, ALICE)
    expect(studio.prompt).to_be_visible()


def test_logging_out_forgets_the_key(studio: Studio) -> None:
    log_in(studio, ALICE)

    studio.page.get_by_role("button", name="alice, log out").click()

    expect(studio.page.get_by_label("API key")).to_be_visible()
    studio.page.reload()
    expect(studio.page.get_by_label("API key")).to_be_visible()


def test_another_key_sees_nothing_of_the_key_before(keyed: Stack, studio: Studio) -> None:
    Client(keyed.api, ALICE).generate(prompt="for alice alone")
    Client(keyed.api, BOB).generate(prompt="for bob alone")
    log_in(studio, ALICE)
    expect(studio.tile("for alice alone")).to_be_visible()
    studio.generate("a prompt of alice")
    expect(studio.made("a prompt of alice")).to_be_visible()

    studio.page.get_by_role("button", name="alice, log out").click()
    log_in(studio, BOB)

    expect(studio.tile("for bob alone")).to_be_visible()
    expect(studio.tile("for alice alone")).to_have_count(0)
    expect(studio.prompt).to_have_value("")
    studio.prompt.press("Alt+ArrowUp")
    expect(studio.prompt).to_have_value("")


def test_a_page_whose_key_is_refused_says_so_and_asks_nothing_more(keyed: Stack, open_studio: Open) -> None:
    Client(keyed.api, ALICE).generate(prompt="before the key was refused")
    studio = open_studio(keyed.api, allowed=REFUSED, is_new=True)
    studio.page.clock.install()
    log_in(studio.open(), ALICE)
    expect(studio.tiles().first).to_be_visible()
    studio.page.route("**/api/**", lambda route: route.fulfill(status=401, json={}))

    studio.page.get_by_role("searchbox").fill("anything")

    expect(studio.page.get_by_role("alert")).to_have_text("The service does not accept this key.")
    asked: list[str] = []
    studio.page.on("request", lambda request: asked.append(request.url))
    studio.page.clock.fast_forward(60_000)
    with studio.page.expect_request("**/health/live"):
        studio.page.evaluate("fetch('/health/live')")
    assert len(asked) == 1


def test_links_to_images_are_renewed(redis_url: str, tmp_path: Path, open_studio: Open) -> None:
    """As on a page that is open for days."""
    settings = {"SD_BACKENDS": "null", "SD_API_KEY": KEYS, "SD_LINK_LIFETIME_SECONDS": "1"}
    with Stack(redis_url, tmp_path, **settings) as stack:
        stack.start_worker("null")
        Client(stack.start_api(), ALICE).generate(prompt="long ago")
        studio = open_studio(stack.api, allowed=REFUSED, is_new=True)

        def send_late(route: Route) -> None:
            wait_until(lambda: requests.get(route.request.url, timeout=10).status_code == 401)
            route.continue_()

        studio.page.route("**/images/0?*", send_late, times=1)
        log_in(studio, ALICE)

        image = studio.tile("long ago").get_by_role("img")
        expect(image).to_have_js_property("complete", True)
        expect(image).not_to_have_js_property("naturalWidth", 0)


def test_a_read_only_key_can_look_and_change_nothing(keyed: Stack, studio: Studio) -> None:
    Client(keyed.api, ALICE).generate(prompt="to look at")

    log_in(studio, ALICE_READ_ONLY)

    expect(studio.page.get_by_role("button", name="Generate")).to_be_disabled()
    expect(studio.page.get_by_text("This key is read-only")).to_be_visible()
    studio.tile("to look at").first.click()
    viewer = studio.page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_role("img", name="to look at")).to_be_visible()
    for name in ("Delete", "Star", "Vary"):
        expect(viewer.get_by_role("button", name=name)).to_have_count(0)


def test_the_top_of_the_page_fits_on_a_phone(keyed: Stack, open_studio: Open) -> None:
    studio = log_in(open_studio(keyed.api, viewport=PHONE, has_touch=True), ALICE_READ_ONLY)

    for name in ("alice (read-only), log out", "Light or dark", "Keys"):
        button = studio.page.get_by_role("button", name=name)
        expect(button).to_be_in_viewport(ratio=1)
        box = button.bounding_box()
        assert box is not None
        # One line.
        assert box["height"] < 46
    assert studio.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_an_administrator_sees_all_jobs_and_the_service(keyed: Stack, studio: Studio) -> None:
    Client(keyed.api, BOB).generate(prompt="of bob for the administrator")

    log_in(studio, ADMIN)

    expect(studio.tile("of bob for the administrator")).to_be_visible()
    studio.page.get_by_role("link", name="Service").click()
    expect(studio.page.get_by_role("heading", name="Workers")).to_be_visible()
    expect(studio.page.get_by_role("link", name="Metrics for Prometheus")).to_be_visible()
    expect(studio.page.get_by_text("Everything works")).to_be_visible()


def test_a_page_says_that_the_service_is_away_and_comes_back_by_itself(stack: Stack, open_studio: Open) -> None:
    stack.start_worker("null")
    api = stack.start_api(SD_BACKENDS="null")
    studio = open_studio(api, allowed=AWAY)
    expect(studio.page.get_by_role("combobox", name="Model", exact=True)).to_be_visible()

    api.process.kill()

    expect(studio.page.get_by_text("The service does not answer; trying again…")).to_be_visible()
    studio.generate("made while it was away")
    expect(studio.page.get_by_role("alert").first).to_contain_text("does not answer")
    settings = {"SD_BACKENDS": "null", "SD_PORT": api.url.rpartition(":")[2]}
    stack.run([sys.executable, "-m", "api.main"], **settings).wait_for("Uvicorn running on")
    expect(studio.page.get_by_text("The service does not answer; trying again…")).to_have_count(0)
    studio.generate("made after it came back")
    expect(studio.made("made after it came back")).to_be_visible()


def test_a_repeated_request_whose_answer_was_lost_makes_one_job(null: Stack, open_studio: Open) -> None:
    studio = open_studio(null.api, allowed=("ERR_FAILED",))

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    studio.page.route("**/api/jobs", lose, times=1)
    studio.generate("an answer that was lost")
    expect(studio.page.get_by_role("alert")).to_contain_text("does not answer")

    studio.generate("an answer that was lost")

    expect(studio.made("an answer that was lost")).to_be_visible()
    assert len(null.api.get("/api/jobs", params={"q": "an answer that was lost"}).json()["jobs"]) == 1


FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }"
FORBIDDEN = """for (const area of ["localStorage", "sessionStorage"]) {
  Object.defineProperty(window, area, { get() { throw new DOMException("no", "SecurityError"); } });
}"""


@pytest.mark.parametrize("script", [FULL, FORBIDDEN])
def test_the_page_works_where_the_browser_keeps_nothing(null: Stack, open_studio: Open, script: str) -> None:
    studio = open_studio(null.api, "/health/live", is_new=True)
    studio.page.add_init_script(script)
    studio.open()

    studio.generate("kept nowhere")

    expect(studio.made("kept nowhere").first).to_be_visible()


def test_a_page_that_does_not_come_whole_says_so(null: Stack, open_studio: Open) -> None:
    studio = open_studio(null.api, "/health/live", allowed=("ERR_FAILED",), is_new=True)
    studio.page.route("**/views/size.js", lambda route: route.abort())

    studio.open()

    expect(studio.page.get_by_text("load the page again")).to_be_visible()


def test_an_image_that_cannot_be_sent_now_is_not_said_to_be_gone(null: Stack, open_studio: Open) -> None:
    job = generated(null.api, prompt="not now")
    studio = open_studio(null.api, "/health/live", allowed=("503",), is_new=True)
    studio.page.clock.install()
    asked: list[str] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=503)

    studio.page.route(f"**/{job['id']}/images/0?*", refuse)
    studio.open()
    expect(studio.tile("not now")).to_be_visible()

    gone = studio.gallery.get_by_text("no longer stored")
    # The image and then its status, seven times.
    while len(asked) < 14 and gone.count() == 0:
        studio.page.clock.run_for(16_000)

    expect(gone).to_have_count(0)
