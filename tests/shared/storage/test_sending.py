"""Images out of a bucket: all that is promised of those on a disk, and addresses that lead to the bucket itself."""

from typing import Any

import pytest
import requests

from api.delivery.image_files import CHUNK_BYTES
from tests.api.delivery.test_images import (
    part,
)
from tests.api.images import noise_png
from tests.api.problem import assert_problem
from tests.shared.storage.conftest import bucket_at
from tests.shared.storage.s3 import S3Server
from tests.stack import Api, Stack


@pytest.fixture(scope="module")
def api(far: Stack) -> Api:
    return far.api


@pytest.fixture(scope="module")
def finished(api: Api) -> dict[str, Any]:
    answer = api.post("/api/txt2img", {"prompt": "x", "num_images": 2, "seed": 7})
    assert answer.status_code == 200
    job: dict[str, Any] = answer.json()
    return job


@pytest.mark.parametrize("damage", ["gone", "another", "longer"])
def test_a_image_that_is_not_the_one_on_record_is_not_sent(far: Stack, s3: S3Server, damage: str) -> None:
    job = far.api.post("/api/txt2img", {"prompt": "x"}).json()
    bucket = bucket_at(s3, far.settings["SD_OUTPUT_URL"], far.folder)
    (name,) = [
        file.name for day in bucket.list_days() for file in bucket.list_files(day.name) if job["id"] in file.name
    ]
    held = bucket.read(name) or b""
    bucket.remove([name])
    match damage:
        case "another":
            bucket.create(name, held[:-1] + bytes([held[-1] ^ 1]), "a")
        case "longer":
            bucket.create(name, held + b"x", "a")

    path = f"{job['links']['self']}/images/0"
    assert far.api.http.head(far.api.url + path, timeout=10).status_code == 404
    assert_problem(far.api.get(path), 404, "image-not-found")
    assert_problem(far.api.get(path, headers={"If-None-Match": "*"}), 404, "image-not-found")


@pytest.mark.parametrize("body", [{"response_format": "b64_json"}, {"output_format": "webp"}])
def test_images_come_with_the_answer_where_that_is_asked_for(far: Stack, body: dict[str, Any]) -> None:
    answer = far.api.post("/api/txt2img", {"prompt": "x", **body}, headers={"Accept": "*/*"})

    assert answer.status_code == 200
    assert bool(answer.json()["images"][0].get("b64_json")) is ("response_format" in body)
    assert far.api.post("/api/txt2img", {"prompt": "x"}, headers={"Accept": "image/png"}).content[:4] == b"\x89PNG"


def test_a_large_image_is_sent_in_pieces_and_whole(far: Stack) -> None:
    parts = {"image": ("a.png", noise_png(1200, 1000))}
    answer = far.api.http.post(f"{far.api.url}/api/img2img", files=parts, data={"prompt": "x"}, timeout=30)
    image = answer.json()["images"][0]
    assert image["bytes"] > CHUNK_BYTES

    got = requests.get(image["url"], timeout=20).content
    middle = part(image["url"], "bytes=100-2300000")

    assert len(got) == image["bytes"]
    assert (middle.status_code, middle.content) == (206, got[100:2300001])


def test_a_client_may_be_led_to_the_bucket_itself(far: Stack, s3: S3Server, finished: dict[str, Any]) -> None:
    leading = far.start_api(
        SD_OUTPUT_DIR=str(far.folder / "another"), SD_OUTPUT_PUBLIC_URL=s3.url.replace("127.0.0.1", "localhost")
    )
    image = finished["images"][0]
    path = f"{finished['links']['self']}/images/0"

    led = leading.get(path, allow_redirects=False)
    there = requests.get(led.headers["location"], timeout=10)

    assert (led.status_code, led.headers["cache-control"]) == (307, "no-store")
    assert led.headers["location"].startswith(s3.url.replace("127.0.0.1", "localhost"))
    assert "X-Amz-Signature=" in led.headers["location"]
    assert len(there.content) == image["bytes"]
    assert there.headers["content-type"] == "image/png"
    assert there.headers["content-disposition"] == f'inline; filename="{finished["id"]}-0.png"'
    assert leading.get(path).content == there.content
    assert_problem(leading.get(f"{finished['links']['self']}/images/5"), 404, "image-not-found")
