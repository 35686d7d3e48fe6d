"""GET /api/images.zip: many images in one file."""

import io
import zipfile
from hashlib import sha256
from typing import Any

import pytest
import requests

from api.delivery import archive
from shared.errors import PayloadTooLarge
from shared.jobs.job import Image
from tests.api.clients import UNKNOWN_ID, Client
from tests.api.conftest import image_file
from tests.api.native.test_purge import generated
from tests.api.problem import assert_problem
from tests.shared.conftest import new_job
from tests.stack import Api, Stack


def read_zip(answer: requests.Response) -> dict[str, bytes]:
    assert answer.headers["content-type"] == "application/zip", answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archived:
        assert archived.testzip() is None
        return {name: archived.read(name) for name in archived.namelist()}


def ask(*jobs: dict[str, Any]) -> str:
    return "/api/images.zip?" + "&".join(f"job={job['id']}" for job in jobs)


def test_an_archive_has_every_image_of_the_jobs(api: Api) -> None:
    # Larger than one chunk of the answer.
    jobs = [generated(api, num_images=2), generated(api, width=1024, height=1024, output_format="webp", seed=5)]
    expected = {
        f"{job['id']}-{image['index']}.{job['request']['output_format']}": image["sha256"]
        for job in jobs
        for image in job["images"]
    }

    files = read_zip(api.get(ask(*jobs)))

    assert {name: sha256(data).hexdigest() for name, data in files.items()} == expected


def test_an_archive_leaves_out_deleted_and_withheld_images(null: Stack) -> None:
    kept = generated(null.api)
    withheld = generated(null.api, num_images=2, metadata={"simulate": {"flag": 1}})
    deleted = generated(null.api)
    image_file(null, deleted["id"]).unlink()

    files = read_zip(null.api.get(ask(withheld, kept, deleted)))

    assert set(files) == {f"{kept['id']}-0.png", f"{withheld['id']}-1.png"}


def test_an_archive_needs_images(null: Stack, idle: Stack) -> None:
    queued = idle.api.post("/api/jobs", {"prompt": "x"}).json()

    assert_problem(idle.api.get(ask(queued)), 404, "image-not-found")
    assert_problem(null.api.get("/api/images.zip"), 422, "invalid-request")
    assert_problem(null.api.get("/api/images.zip?job=x"), 422, "invalid-request")
    assert_problem(null.api.get(ask(*[{"id": UNKNOWN_ID}] * 101)), 422, "invalid-request")


def test_an_archive_has_only_images_of_the_key(alice: Client, bob: Client, stranger: Client) -> None:
    job, of_bob = alice.generate(), bob.generate()

    assert_problem(alice.get(ask(job, of_bob)), 404, "job-not-found")
    assert_problem(stranger.get(ask(job)), 401, "unauthorized")
    assert len(read_zip(alice.get(ask(job)))) == 1


def test_an_archive_is_bounded(api: Api, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    images = tuple(Image.model_construct(**image) for image in finished["images"])
    job = new_job().model_copy(update={"images": images})
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", finished["images"][0]["bytes"])

    with pytest.raises(PayloadTooLarge):
        asyncio.run(archive.archive_images(None, [job]))  # type: ignore[arg-type] # nothing is read
