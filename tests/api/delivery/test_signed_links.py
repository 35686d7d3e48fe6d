"""Image links open without a key, for a time, and only the image they were made for."""

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.api.clients import ALICE, BOB, Client
from tests.api.problem import assert_problem
from tests.stack import Api, Stack


@pytest.fixture(scope="module")
def link(alice: Client) -> str:
    """Path and query of an image's link."""
    url = urlsplit(alice.generate(num_images=2)["images"][0]["url"])
    return f"{url.path}?{url.query}"


def test_a_link_opens_without_a_key(stranger: Client, link: str) -> None:
    answer = stranger.get(link)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["cache-control"].startswith("private")
    assert stranger.request("HEAD", link).status_code == 200
    assert ALICE not in link


def test_a_link_opens_whatever_key_comes_with_it(bob: Client, link: str) -> None:
    wrong = {"X-API-Key": "wrong"}

    assert bob.get(link, headers=wrong).status_code == 200


def test_a_image_opens_with_the_key_alone(alice: Client, stranger: Client, link: str) -> None:
    path = link.partition("?")[0]

    assert alice.get(path).status_code == 200
    assert_problem(stranger.get(path), 401, "unauthorized")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/images/0", "/images/1"),
        ("/images/0", ""),
        ("/images/0", "/events"),
        ("/images/0", "/images/00"),
        ("expires=", "expires=9"),
        ("expires=1", "expires=%201"),
        ("expires=", "expired="),
        ("signature=", "signature=0"),
        ("signature=", "signature=%C3%A9"),
        ("&signature=", "&signature=&x="),
        ("&signature=", "&xsignature="),
    ],
)
def test_an_altered_link_opens_nothing(stranger: Client, link: str, old: str, new: str) -> None:
    assert old in link

    assert_problem(stranger.get(link.replace(old, new)), 401, "unauthorized")


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT"])
def test_a_link_is_for_looking(stranger: Client, link: str, method: str) -> None:
    assert_problem(stranger.request(method, link), 401, "unauthorized")


def test_a_link_is_the_same_for_a_while_so_that_images_stay_in_caches(alice: Client) -> None:
    job = alice.generate()

    again = [alice.get(job["links"]["self"]).json()["images"][0]["url"] for _ in range(3)]

    assert len({job["images"][0]["url"], *again}) <= 2


def test_a_link_expires(keyed: Stack, alice: Client, stranger: Client) -> None:
    brief = keyed.start_api(SD_LINK_LIFETIME_SECONDS="1")
    url = Client(brief, ALICE).get(alice.generate()["links"]["self"]).json()["images"][0]["url"]

    link = url.removeprefix(brief.url)
    early = stranger.get(link).status_code
    # Asked again and again until it does: it is good for two seconds at most.
    late = next(code for code in iter(lambda: stranger.get(link).status_code, None) if code != 200)

    assert (early, late) == (200, 401)


def test_every_process_takes_the_links_of_the_others_also_after_a_restart(keyed: Stack, link: str) -> None:
    keyed.apis[-1].process.stop()
    fresh = keyed.start_api()

    assert Client(fresh, None).get(link).status_code == 200


def test_a_secret_of_the_operators_own_is_what_counts(keyed: Stack, alice: Client, link: str) -> None:
    first, second, other = (
        keyed.start_api(SD_LINK_SECRET=secret, SD_API_KEY=f"alice:{ALICE},bob:{BOB}")
        for secret in ("0123456789abcdef", "0123456789abcdef", "fedcba9876543210")
    )
    url = Client(first, ALICE).get(alice.generate()["links"]["self"]).json()["images"][0]["url"]
    own = url.removeprefix(first.url)

    opened = [Client(api, None).get(path).status_code for api in (second, other) for path in (own, link)]

    assert opened == [200, 401, 401, 401]


def test_without_keys_links_carry_no_signature(api: Api) -> None:
    url = api.post("/api/txt2img", {"prompt": "x"}).json()["images"][0]["url"]

    assert parse_qs(urlsplit(url).query) == {}
