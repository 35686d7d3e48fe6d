"""Many and large uploads: memory stays bounded, and each job gets its own images."""

import base64
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import requests
from PIL import Image

from tests.api.images import PROMPT, encoded, noise_png, post_image
from tests.stack import Api, Stack
from tests.support.polling import wait_until
from tests.worker.images.image_checks import pixels
from tests.worker.new_jobs import image_bytes

CONCURRENT = 5
NO_WAIT = {"prefer": "wait=0"}
#: Memory holds JSON twice while it is read: as bytes and as the text of its fields.
MAX_GROWTH_OF_FORMS, MAX_GROWTH_OF_JSON = 30_000_000, 110_000_000
ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module")
def unserved(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API without a worker, so that uploads stay on disk."""
    with Stack(redis_url, tmp_path_factory.mktemp("unserved"), SD_BACKENDS="null") as stack:
        stack.start_api()
        yield stack


@functools.cache
def large() -> bytes:
    return noise_png(2600, 2580)


def inputs(stack: Stack) -> list[Path]:
    return [path for path in stack.outputs.glob("inputs/*/*") if path.is_file()]


def growth(api: Api, upload: Callable[[], requests.Response]) -> int:
    """The peak growth of the API's memory during concurrent uploads."""
    assert upload().status_code == 202
    with resident(api) as growth, ThreadPoolExecutor(CONCURRENT) as threads:
        assert {answer.status_code for answer in threads.map(lambda _: upload(), range(2 * CONCURRENT))} == {202}
    return growth()


@contextmanager
def resident(api: Api) -> Iterator[Callable[[], int]]:
    """The peak growth of the API's memory since the start of the block."""
    process = Path(f"/proc/{api.process.pid}")
    # Resets the peak.
    (process / "clear_refs").write_text("5")
    before = _bytes(process, "VmRSS")
    yield lambda: _bytes(process, "VmHWM") - before


def _bytes(process: Path, name: str) -> int:
    (line,) = [line for line in (process / "status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def form(api: Api) -> requests.Response:
    return requests.post(f"{api.url}/api/img2img", data=PROMPT, files={"image": large()}, headers=NO_WAIT, timeout=60)


@ONLY_LINUX
def test_memory_does_not_grow_with_the_size_of_forms(unserved: Stack) -> None:
    assert len(large()) > 20_000_000
    try:
        assert growth(unserved.api, lambda: form(unserved.api)) < MAX_GROWTH_OF_FORMS
    finally:
        cancel_all(unserved)


@ONLY_LINUX
def test_memory_holds_one_large_json_request_at_a_time(unserved: Stack) -> None:
    body: dict[str, Any] = {"prompt": "x", "image": base64.b64encode(large()).decode()}
    try:
        assert growth(unserved.api, lambda: unserved.api.post("/api/jobs", body)) < MAX_GROWTH_OF_JSON
    finally:
        cancel_all(unserved)


def cancel_all(stack: Stack) -> None:
    for job in stack.api.get("/api/jobs?state=queued&limit=100").json()["jobs"]:
        assert stack.api.delete(f"/api/jobs/{job['id']}").status_code == 200


def test_images_of_a_cancelled_queued_job_are_removed_at_once(unserved: Stack) -> None:
    job = unserved.api.post("/api/jobs", {"prompt": "x", "image": base64.b64encode(noise_png(20, 20)).decode()}).json()
    (kept,) = inputs(unserved)
    assert kept.parent.name == job["id"]
    assert f"sha256:{kept.name}" in job["request"]["image"]
    # Had the job not been accepted, the housekeeper would remove them.
    with redis.Redis.from_url(unserved.settings["SD_REDIS_URL"]) as client:
        assert client.zscore(f"{unserved.prefix}uploads", job["id"])

    unserved.api.delete(f"/api/jobs/{job['id']}")

    assert inputs(unserved) == []


def test_a_repeated_request_stores_its_images_once(unserved: Stack) -> None:
    body, key = {"prompt": "x", "image": base64.b64encode(noise_png(20, 20)).decode()}, {"idempotency-key": "one"}

    jobs = {unserved.api.post("/api/jobs", body, headers=key).json()["id"] for _ in range(3)}

    assert len(jobs) == len(inputs(unserved)) == 1
    cancel_all(unserved)


def test_images_are_not_stored_in_redis(unserved: Stack) -> None:
    unserved.api.post("/api/jobs", {"prompt": "x", "image": base64.b64encode(large()).decode()})

    answer = unserved.api.get("/api/jobs?state=queued")

    assert len(answer.content) < 4096
    cancel_all(unserved)


def test_a_full_queue_stores_no_images(redis_url: str, tmp_path: Path) -> None:
    with Stack(redis_url, tmp_path, SD_BACKENDS="null", SD_MAX_QUEUED_JOBS="1") as stack:
        api = stack.start_api()
        body = {"prompt": "x", "image": base64.b64encode(noise_png(20, 20)).decode()}

        statuses = [api.post("/api/jobs", body).status_code for _ in range(3)]

        assert statuses == [202, 429, 429]
        assert len(inputs(stack)) == 1


def test_concurrent_uploads_are_not_mixed_up(null: Stack) -> None:
    shades = np.arange(50, dtype=np.uint8)
    numbers = itertools.count()

    def changed(shade: int) -> bool:
        image = np.full((32, 32, 3), 4 * shade, np.uint8)
        # An image of one colour would be refused as invalid output.
        image[:16] += 20
        answer = post_image(null.api, encoded(Image.fromarray(image)), strength="0.001", label=f"{next(numbers)}")
        assert answer.status_code == 200, answer.text
        drawn = pixels(image_bytes(null, answer.json()))
        return bool(np.abs(drawn.astype(int) - image).max() <= 1)

    with ThreadPoolExecutor(50) as threads:
        assert all(threads.map(changed, shades.tolist()))

    wait_until(lambda: inputs(null) == [])
