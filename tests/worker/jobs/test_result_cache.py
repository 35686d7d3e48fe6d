"""With SD_REUSE_PICTURES, a job with the same request reuses the images of an earlier one."""

import itertools
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.jobs.result_cache import ResultCacheIndex
from shared.redis.keys import Keys
from tests.api.clients import ALICE, BOB, KEYS, Client
from tests.stack import Stack
from tests.worker.bench import Bench, wake
from worker.engines.null import NullEngine
from worker.models.contents.fingerprint import fingerprint
from worker.records.result_cache import MAX_LIFETIME, lifetime

_seeds = itertools.count(1)


@pytest.fixture(scope="module")
def service(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("repeats")
    with Stack(redis_url, folder, SD_BACKENDS="null", SD_API_KEY=KEYS, SD_REUSE_PICTURES="true") as stack:
        stack.start_worker("null")
        stack.start_api()
        yield stack


@pytest.fixture
def alice(service: Stack) -> Client:
    return Client(service.api, ALICE)


@pytest.fixture
def fields() -> dict[str, Any]:
    """A request that no other test makes."""
    return {"prompt": "stripes", "seed": next(_seeds), "num_images": 2}


def content(client: Client, job: dict[str, Any], index: int = 0) -> bytes:
    return client.get(f"/api/jobs/{job['id']}/images/{index}").content


def image_file(service: Stack, job: dict[str, Any]) -> Path:
    (path,) = service.find(f"{job['id']}-0.*")
    return path


def test_the_same_request_gets_the_same_files_and_names_their_job(alice: Client, fields: dict[str, Any]) -> None:
    first = alice.generate(**fields)
    # With explicit defaults and fields that do not change the image.
    again = alice.generate(**fields, width=64, height=64, label="mine", metadata={"n": 1}, response_format="b64_json")

    assert (first["reused_from"], again["reused_from"]) == (None, first["id"])
    assert [image["sha256"] for image in again["images"]] == [image["sha256"] for image in first["images"]]
    assert [content(alice, again, index) for index in (0, 1)] == [content(alice, first, index) for index in (0, 1)]
    assert again["timings"]["generate_ms"] is None


def test_images_are_rendered_again_if_the_files_of_the_first_job_are_gone(
    service: Stack, alice: Client, fields: dict[str, Any]
) -> None:
    first, again = alice.generate(**fields), alice.generate(**fields)
    image_file(service, first).unlink()

    anew = alice.generate(**fields)
    after = alice.generate(**fields)

    assert content(alice, again)
    assert (anew["reused_from"], after["reused_from"]) == (None, anew["id"])


def test_a_changed_file_is_not_reused(service: Stack, alice: Client, fields: dict[str, Any]) -> None:
    path = image_file(service, alice.generate(**fields))
    path.write_bytes(path.read_bytes() + b"\n")

    assert alice.generate(**fields)["reused_from"] is None


@pytest.mark.parametrize(
    "other",
    [{"seed": 10**6}, {"num_images": 1}, {"width": 96}, {"guidance_scale": 2.0}, {"output_format": "webp"}],
    ids=lambda other: next(iter(other)),
)
def test_another_request_is_rendered(alice: Client, fields: dict[str, Any], other: dict[str, Any]) -> None:
    alice.generate(**fields)

    assert alice.generate(**{**fields, **other})["reused_from"] is None


def test_images_of_another_owner_are_not_reused(service: Stack, alice: Client, fields: dict[str, Any]) -> None:
    alice.generate(**fields)

    assert Client(service.api, BOB).generate(**fields)["reused_from"] is None


def test_withheld_images_are_not_reused(alice: Client, fields: dict[str, Any]) -> None:
    first = alice.generate(**fields, metadata={"simulate": {"flag": 1}})

    assert [image["flagged"] for image in first["images"]] == [True, False]
    assert alice.generate(**fields)["reused_from"] is None


def test_a_job_that_reuses_images_leaves_its_batch(alice: Client, fields: dict[str, Any]) -> None:
    first = alice.generate(**fields)
    other = {**fields, "seed": 10**6 + 1}
    jobs = [alice.submit(metadata={"simulate": {"seconds": 1}}), alice.submit(**other), alice.submit(**fields)]
    # Not like them, and after them.
    alice.generate(num_inference_steps=9)

    _, made, repeated = [alice.get(f"/api/jobs/{job['id']}").json() for job in jobs]

    assert (made["reused_from"], repeated["reused_from"]) == (None, first["id"])
    assert made["timings"]["batch_size"] is None


def test_no_folder_is_searched_for_a_fingerprint_that_nobody_needs(bench: Bench) -> None:
    class Engine(NullEngine):
        def fingerprint(self) -> str:
            raise AssertionError

    job = bench.submit()

    wake(bench.runner(Engine()))

    assert bench.read(job).state == "succeeded"


def test_no_image_is_reused_by_default(null: Stack, fields: dict[str, Any]) -> None:
    jobs = [null.api.post("/api/txt2img", fields).json() for _ in range(2)]

    assert [job["reused_from"] for job in jobs] == [None, None]
    assert jobs[1]["timings"]["generate_ms"] is not None


def test_a_model_with_a_rewritten_file_has_another_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "unet" / "weights.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"old")
    before = fingerprint([tmp_path], "float32")

    assert fingerprint([tmp_path], "float32") == before
    assert fingerprint([tmp_path], "float16") != before
    file.write_bytes(b"new")
    os.utime(file, ns=(1, 1))
    assert fingerprint([tmp_path], "float32") != before


@pytest.mark.parametrize(
    ("days", "remembered"), [((0, 7), timedelta(days=7)), ((3, 7), timedelta(days=3)), ((0, 0), MAX_LIFETIME)]
)
def test_entries_live_no_longer_than_images_and_records(days: tuple[int, int], remembered: timedelta) -> None:
    assert lifetime(*days) == remembered


def test_an_entry_expires(bench: Bench) -> None:
    bench.store.run(ResultCacheIndex(bench.prefix).put("fingerprint", "a job", 60_000))

    assert 0 < bench.store.client.pttl(Keys(bench.prefix).cached_result("fingerprint")) <= 60_000
