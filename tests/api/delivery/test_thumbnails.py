"""GET /api/jobs/{id}/images/{i}?width=320: made by the worker, stored beside the image."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.api.clients import Client
from tests.api.native.test_purge import generated
from tests.api.problem import assert_problem
from tests.stack import Api, Stack


@pytest.fixture(scope="module")
def large(api: Api) -> dict[str, Any]:
    return generated(api, width=640, height=960)


def thumbnail_path(job: dict[str, Any], index: int = 0) -> str:
    return f"{job['links']['self']}/images/{index}?width=320"


def test_a_thumbnail_is_a_small_jpeg_with_the_proportions_of_the_image(null: Stack, large: dict[str, Any]) -> None:
    answer = null.api.get(thumbnail_path(large))

    image = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == "image/jpeg"
    assert (image.format, image.size) == ("JPEG", (320, 480))
    assert answer.content == stored(null, large).read_bytes()


def stored(stack: Stack, job: dict[str, Any]) -> Path:
    (path,) = stack.find(f"{job['id']}-0-320.jpeg")
    return path


def test_a_client_does_not_download_a_thumbnail_twice(api: Api, large: dict[str, Any]) -> None:
    first = api.get(thumbnail_path(large))

    second = api.get(thumbnail_path(large), headers={"If-None-Match": first.headers["etag"]})

    assert "immutable" in first.headers["cache-control"]
    assert (second.status_code, second.content) == (304, b"")
    assert first.headers["etag"] != api.get(f"{large['links']['self']}/images/0").headers["etag"]


def test_a_small_image_is_its_own_thumbnail(null: Stack, finished: dict[str, Any]) -> None:
    answer = null.api.get(thumbnail_path(finished))

    assert answer.headers["content-type"] == "image/png"
    assert null.find(f"{finished['id']}-0-*") == []


def test_an_image_without_a_thumbnail_is_sent_itself(null: Stack) -> None:
    job = generated(null.api, width=640)
    stored(null, job).unlink()

    answer = null.api.get(thumbnail_path(job))

    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"] == f'"{job["images"][0]["sha256"]}"'


@pytest.mark.parametrize("width", ["319", "321", "0", "-320", "x", ""])
def test_other_widths_are_refused(api: Api, large: dict[str, Any], width: str) -> None:
    answer = api.get(f"{large['links']['self']}/images/0?width={width}")

    assert_problem(answer, 422, "invalid-request")


def test_thumbnails_are_as_private_as_images(alice: Client, bob: Client, stranger: Client) -> None:
    job = alice.generate(width=640)
    signed = job["images"][0]["url"].partition("?")[2]

    assert_problem(bob.get(thumbnail_path(job)), 404, "job-not-found")
    assert_problem(stranger.get(thumbnail_path(job)), 401, "unauthorized")
    assert stranger.get(f"{thumbnail_path(job)}&{signed}").headers["content-type"] == "image/jpeg"


def test_a_withheld_image_has_no_thumbnail(null: Stack) -> None:
    job = generated(null.api, width=640, num_images=2, metadata={"simulate": {"flag": 1}})

    assert_problem(null.api.get(thumbnail_path(job)), 404, "image-not-found")
    assert null.find(f"{job['id']}-0*") == []
    assert null.api.get(thumbnail_path(job, 1)).headers["content-type"] == "image/jpeg"


def test_reused_images_have_thumbnails(stack: Stack) -> None:
    stack.start_worker("null", SD_REUSE_PICTURES="true")
    api = stack.start_api(SD_BACKENDS="null")
    first, second = (generated(api, width=640, seed=1) for _ in range(2))

    assert second["reused_from"] == first["id"]
    assert stored(stack, second).read_bytes() == stored(stack, first).read_bytes()
