"""Where the operator allows it, an exact repeat gets the images that were made before."""

import itertools
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.api.clients import ALICE, BOB, KEYS, Client
from tests.stack import Stack
from worker.models.fingerprint import fingerprint
from worker.records.result_cache import LONGEST, lifetime

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
def asked() -> dict[str, Any]:
    """A request that no other test makes."""
    return {"prompt": "stripes", "seed": next(_seeds), "num_images": 2}


def content(client: Client, job: dict[str, Any], index: int = 0) -> bytes:
    return client.get(f"/api/jobs/{job['id']}/images/{index}").content


def file_of(service: Stack, job: dict[str, Any]) -> Path:
    (path,) = service.outputs.rglob(f"{job['id']}-0.*")
    return path


def test_it_gets_the_same_files_and_says_whose_they_were(alice: Client, asked: dict[str, Any]) -> None:
    first = alice.generate(**asked)
    # Spelled out, and with what concerns no image.
    again = alice.generate(**asked, width=64, height=64, label="mine", metadata={"n": 1}, response_format="b64_json")

    assert (first["reused_from"], again["reused_from"]) == (None, first["id"])
    assert [image["sha256"] for image in again["images"]] == [image["sha256"] for image in first["images"]]
    assert [content(alice, again, index) for index in (0, 1)] == [content(alice, first, index) for index in (0, 1)]
    assert again["timings"]["generate_ms"] is None


def test_a_repeat_can_be_repeated_when_the_first_is_gone(service: Stack, alice: Client, asked: dict[str, Any]) -> None:
    first, again = alice.generate(**asked), alice.generate(**asked)
    file_of(service, first).unlink()

    anew = alice.generate(**asked)
    after = alice.generate(**asked)

    assert content(alice, again)
    assert (anew["reused_from"], after["reused_from"]) == (None, anew["id"])


def test_a_file_that_was_changed_is_not_given_again(service: Stack, alice: Client, asked: dict[str, Any]) -> None:
    path = file_of(service, alice.generate(**asked))
    path.write_bytes(path.read_bytes() + b"\n")

    assert alice.generate(**asked)["reused_from"] is None


@pytest.mark.parametrize(
    "other",
    [{"seed": 10**6}, {"num_images": 1}, {"width": 96}, {"guidance_scale": 2.0}, {"output_format": "webp"}],
    ids=lambda other: next(iter(other)),
)
def test_another_request_is_no_repeat(alice: Client, asked: dict[str, Any], other: dict[str, Any]) -> None:
    alice.generate(**asked)

    assert alice.generate(**{**asked, **other})["reused_from"] is None


def test_nobody_gets_what_was_made_for_somebody_else(service: Stack, alice: Client, asked: dict[str, Any]) -> None:
    alice.generate(**asked)

    assert Client(service.api, BOB).generate(**asked)["reused_from"] is None


def test_what_was_withheld_is_made_again(alice: Client, asked: dict[str, Any]) -> None:
    first = alice.generate(**asked, metadata={"simulate": {"flag": 1}})

    assert [image["flagged"] for image in first["images"]] == [True, False]
    assert alice.generate(**asked)["reused_from"] is None


def test_repeats_among_jobs_in_line_are_not_rendered_with_them(alice: Client, asked: dict[str, Any]) -> None:
    first = alice.generate(**asked)
    other = {**asked, "seed": 10**6 + 1}
    jobs = [alice.submit(metadata={"simulate": {"seconds": 1}}), alice.submit(**other), alice.submit(**asked)]
    # Not like them, and after them.
    alice.generate(num_inference_steps=9)

    _, made, repeated = [alice.get(f"/api/jobs/{job['id']}").json() for job in jobs]

    assert (made["reused_from"], repeated["reused_from"]) == (None, first["id"])
    assert made["timings"]["batch_size"] is None


def test_without_the_operators_consent_every_image_is_made(null: Stack, asked: dict[str, Any]) -> None:
    jobs = [null.api.post("/api/txt2img", asked).json() for _ in range(2)]

    assert [job["reused_from"] for job in jobs] == [None, None]
    assert jobs[1]["timings"]["generate_ms"] is not None


def test_a_model_is_another_one_when_a_file_of_it_was_written_again(tmp_path: Path) -> None:
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
    ("days", "remembered"), [((0, 7), timedelta(days=7)), ((3, 7), timedelta(days=3)), ((0, 0), LONGEST)]
)
def test_nothing_is_remembered_for_longer_than_it_is_kept(days: tuple[int, int], remembered: timedelta) -> None:
    assert lifetime(*days) == remembered
