"""`response_format: b64_json`: memory holds one chunk of an answer, and clients that have it get 304."""

import base64
import hashlib
import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import redis
import requests

from tests.api.conftest import image_file
from tests.stack import Api, Stack

BYTES = 12_000_001


@pytest.fixture
def job(null: Stack) -> dict[str, Any]:
    """A job with two images."""
    body = {"prompt": "x", "num_images": 2, "response_format": "b64_json"}
    job: dict[str, Any] = null.api.post("/api/txt2img", body).json()
    return job


@pytest.fixture
def large(null: Stack, job: dict[str, Any]) -> Iterator[list[bytes]]:
    """Large files in place of the images of the job."""
    with redis.Redis.from_url(null.settings["SD_REDIS_URL"], decode_responses=True) as client:
        record = f"{null.prefix}job:{job['id']}"
        doc, contents = json.loads(str(client.hget(record, "doc"))), []
        for image in doc["images"]:
            contents.append(secrets.token_bytes(BYTES))
            image_file(null, job["id"], image["index"]).write_bytes(contents[-1])
            image |= {"bytes": BYTES, "sha256": hashlib.sha256(contents[-1]).hexdigest()}
        client.hset(record, "doc", json.dumps(doc))
    yield contents
    for image in doc["images"]:
        image_file(null, job["id"], image["index"]).unlink()


def read(api: Api, job: dict[str, Any]) -> int:
    """Read the answer without keeping it. Returns its size."""
    with requests.get(f"{api.url}{job['links']['self']}", stream=True, timeout=60) as answer:
        assert answer.status_code == 200
        return sum(map(len, answer.iter_content(1 << 20)))


def test_large_inline_images_are_complete(null: Stack, job: dict[str, Any], large: list[bytes]) -> None:
    answer = null.api.get(job["links"]["self"])

    assert [base64.b64decode(image["b64_json"]) for image in answer.json()["images"]] == large
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_memory_does_not_grow_with_readers_of_large_inline_images(
    null: Stack, job: dict[str, Any], large: list[bytes]
) -> None:
    process = psutil.Process(null.api.process.pid)
    whole = read(null.api, job)
    before = process.memory_info().rss

    with ThreadPoolExecutor(8) as callers:
        reading = [callers.submit(read, null.api, job) for _ in range(8)]
        peak = before
        while not all(future.done() for future in reading):
            peak = max(peak, process.memory_info().rss)

    assert {future.result() for future in reading} == {whole}
    assert peak - before < 2 * BYTES


def test_texts_of_a_job_are_not_mistaken_for_images(null: Stack) -> None:
    metadata = {"b64_json": "x", "images": ['"b64_json":"'] * 3}
    answer = null.api.post(
        "/api/txt2img", {"prompt": '"b64_json":null', "response_format": "b64_json", "metadata": metadata}
    )

    assert (answer.json()["metadata"], answer.json()["request"]["prompt"]) == (metadata, '"b64_json":null')


def test_a_finished_job_is_not_sent_to_a_client_that_has_it(null: Stack, job: dict[str, Any]) -> None:
    path = job["links"]["self"]
    etag = null.api.get(path).headers["etag"]

    again = null.api.get(path, headers={"If-None-Match": etag})
    null.api.http.put(f"{null.api.url}{path}/pin", timeout=10)
    changed = null.api.get(path, headers={"If-None-Match": etag})
    image_file(null, job["id"]).unlink()
    gone = null.api.get(path, headers={"If-None-Match": changed.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")
    assert (changed.status_code, changed.json()["pinned"]) == (200, True)
    assert (gone.status_code, gone.json()["images"][0]["b64_json"]) == (200, None)


def test_an_unfinished_job_has_no_etag(idle: Stack) -> None:
    job = idle.api.post("/api/jobs", {"prompt": "x", "response_format": "b64_json"}).json()

    assert "etag" not in idle.api.get(job["links"]["self"]).headers
