"""GET /api/jobs/{id}/images/{index}: the bytes, their validators, a part of them."""

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.api.conftest import image_file
from tests.api.native.test_jobs import submit
from tests.api.problem import assert_problem
from tests.stack import Api, Stack


@pytest.fixture(scope="module")
def url(finished: dict[str, Any]) -> str:
    image_url: str = finished["images"][0]["url"]
    return image_url


@pytest.fixture(scope="module")
def data(url: str) -> bytes:
    return requests.get(url, timeout=10).content


@pytest.fixture
def lone(null: Stack) -> tuple[str, Path]:
    """An image that a test may damage: its path in the API and its file."""
    job = null.api.wait_until_done(submit(null.api)["id"])
    return f"{job['links']['self']}/images/0", image_file(null, job["id"])


def part(url: str, asked: str, **headers: str) -> requests.Response:
    return requests.get(url, headers={"Range": asked, **headers}, timeout=10)


def test_a_image_comes_with_what_caches_and_browsers_need(finished: dict[str, Any], url: str) -> None:
    answer = requests.get(url, timeout=10)

    image = finished["images"][0]
    assert (answer.status_code, len(answer.content)) == (200, image["bytes"])
    headers = answer.headers
    assert headers["content-type"] == "image/png"
    assert headers["content-length"] == str(image["bytes"])
    assert headers["etag"] == f'"{image["sha256"]}"'
    assert headers["cache-control"] == "private, max-age=31536000, immutable"
    assert headers["accept-ranges"] == "bytes"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-job-id"] == finished["id"]
    assert headers["content-disposition"] == f'inline; filename="{finished["id"]}-0.png"'


def test_head_answers_the_headers_alone(url: str, data: bytes) -> None:
    answer = requests.head(url, timeout=10)

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(data))


@pytest.mark.parametrize("known", ['"{}"', 'W/"{}"', '"other", "{}"', "*"])
def test_a_known_image_is_not_sent_again(finished: dict[str, Any], url: str, known: str) -> None:
    etag = known.format(finished["images"][0]["sha256"])

    answer = requests.get(url, headers={"If-None-Match": etag}, timeout=10)

    assert (answer.status_code, answer.content) == (304, b"")
    assert finished["images"][0]["sha256"] in answer.headers["etag"]


def test_another_image_is_sent(url: str, data: bytes) -> None:
    answer = requests.get(url, headers={"If-None-Match": '"other"'}, timeout=10)

    assert (answer.status_code, answer.content) == (200, data)


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [("bytes=0-9", 0, 10), ("bytes=5-", 5, None), ("bytes=-7", -7, None), ("bytes=0-99999", 0, None)],
)
def test_one_range_is_served(url: str, data: bytes, asked: str, begin: int, end: int | None) -> None:
    answer = part(url, asked)

    first = begin % len(data)
    assert (answer.status_code, answer.content) == (206, data[begin:end])
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(data)}"


def test_a_range_of_the_image_that_is_known_is_served(finished: dict[str, Any], url: str, data: bytes) -> None:
    etag = f'"{finished["images"][0]["sha256"]}"'

    assert part(url, "bytes=0-9", **{"If-Range": etag}).content == data[:10]
    assert part(url, "bytes=0-9", **{"If-Range": '"other"'}).content == data


@pytest.mark.parametrize("asked", ["bytes=1000000-", "bytes=1000000-1000001", "bytes=" + "9" * 18 + "-", "bytes=-0"])
def test_a_range_outside_of_the_image_is_told_its_size(url: str, data: bytes, asked: str) -> None:
    answer = part(url, asked)

    assert_problem(answer, 416, "range-not-satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(data)}"


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-1,3-4", "bytes=" + "0-," * 1000 + "0-", "bytes=5-2", "bytes=", "bytes=-", "bytes=x-y", "bytes=0-1-2",
     "bytes=1_0-20", "bytes=" + "9" * 5000 + "-", "bytes=--1", "items=0-1", "0-1", "bytes 0-1", "bytes=\xb2-", "=",
     "x" * 9000],
    ids=lambda asked: asked[:20],
)  # fmt: skip
def test_what_is_not_one_range_is_answered_with_the_whole_image(url: str, data: bytes, asked: str) -> None:
    answer = part(url, asked)

    assert (answer.status_code, answer.content) == (200, data)


def test_the_answer_to_a_submit_is_whole_whatever_range_is_asked_for(api: Api) -> None:
    headers = {"Accept": "image/png", "Range": "bytes=1000000-"}

    answer = api.post("/api/txt2img", {"prompt": "x"}, headers=headers)

    assert (answer.status_code, answer.content[:4]) == (200, b"\x89PNG")


@pytest.mark.parametrize("index", ["2", "-1", "9" * 30])
def test_a_number_without_a_image_is_not_found(finished: dict[str, Any], api: Api, index: str) -> None:
    answer = api.get(f"{finished['links']['self']}/images/{index}")

    assert_problem(answer, 404, "image-not-found")
    assert answer.headers["x-job-id"] == finished["id"]


@pytest.mark.parametrize("index", ["one", "0x0", "9" * 5000, "0.5", "null"])
def test_what_is_no_number_is_refused(finished: dict[str, Any], api: Api, index: str) -> None:
    assert_problem(api.get(f"{finished['links']['self']}/images/{index}"), 422, "invalid-request")


def test_a_job_that_made_no_image_has_none(api: Api) -> None:
    job = api.wait_until_done(submit(api, metadata={"simulate": {"fail": "out-of-memory"}})["id"])

    assert_problem(api.get(f"{job['links']['self']}/images/0"), 404, "image-not-found")


def test_a_missing_file_is_not_found(api: Api, lone: tuple[str, Path]) -> None:
    path, file = lone
    file.unlink()

    assert_problem(api.get(path), 404, "image-not-found")


def test_a_truncated_file_is_not_served(api: Api, lone: tuple[str, Path]) -> None:
    path, file = lone
    file.write_bytes(file.read_bytes()[:-1])

    assert_problem(api.get(path), 404, "image-not-found")


def test_an_altered_file_is_not_served(api: Api, lone: tuple[str, Path]) -> None:
    path, file = lone
    assert api.get(path).status_code == 200
    altered = bytearray(file.read_bytes())
    altered[-20] ^= 1
    file.write_bytes(altered)

    assert_problem(api.get(path), 404, "image-not-found")


def test_a_link_in_place_of_a_file_is_not_followed(api: Api, lone: tuple[str, Path]) -> None:
    path, file = lone
    elsewhere = file.rename(file.with_name("elsewhere.png"))
    file.symlink_to(elsewhere)

    assert_problem(api.get(path), 404, "image-not-found")


def test_a_folder_in_place_of_a_file_is_not_found(api: Api, lone: tuple[str, Path]) -> None:
    path, file = lone
    file.unlink()
    file.mkdir()

    assert_problem(api.get(path), 404, "image-not-found")


FLAGGED = {"prompt": "x", "num_images": 2, "metadata": {"simulate": {"flag": 1}}}


def test_a_image_that_is_withheld_is_listed_without_an_address(null: Stack) -> None:
    job = null.api.post("/api/txt2img", {**FLAGGED, "response_format": "b64_json"}).json()

    withheld, shown = job["images"]
    assert (withheld["flagged"], withheld["url"], withheld["b64_json"], withheld["sha256"]) == (True, None, None, None)
    assert shown["flagged"] is False
    assert shown["url"]
    assert shown["b64_json"]
    answer = null.api.get(f"{job['links']['self']}/images/0")
    assert_problem(answer, 404, "image-not-found")
    assert answer.json()["detail"] == "The safety checker withheld this image."


def test_who_wants_bytes_gets_the_first_image_that_is_not_withheld(null: Stack) -> None:
    answer = null.api.post("/api/txt2img", FLAGGED, headers={"Accept": "image/png"})

    assert answer.status_code == 200
    assert answer.headers["content-disposition"].endswith('-1.png"')


def test_a_job_of_which_every_image_is_withheld_is_refused(null: Stack) -> None:
    answer = null.api.post("/api/txt2img", {"prompt": "x", "metadata": {"simulate": {"flag": 1}}})

    assert_problem(answer, 422, "content-rejected")
