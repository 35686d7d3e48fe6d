"""The service with a bucket: an API, a worker and a housekeeper that share no disk."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.jobs.housekeeping import JobHousekeeping
from shared.jobs.operations import Jobs
from shared.redis.store import Store, connect
from shared.storage.image_chunks import CHUNK_BYTES
from shared.storage.images import ImageStore, StoredFile
from tests.api.images import encoded, half_mask, noise_png, scene
from tests.api.problem import assert_problem
from tests.faults.processes import kill_process_tree
from tests.shared.storage.conftest import open_bucket
from tests.shared.storage.s3 import S3Server
from tests.stack import Stack
from tests.support.polling import wait_until
from tests.support.valkey import Valkey
from worker.housekeeper.leases import Reaper
from worker.housekeeper.ownership import Ownership
from worker.housekeeper.retention import Retention, RetentionRules
from worker.records.recovery import JobRecovery


def files_on_disk(stack: Stack) -> list[Path]:
    return [path for path in stack.find("*") if path.is_file()]


def images_of(stack: Stack, s3: S3Server) -> ImageStore:
    return ImageStore(open_bucket(s3, stack.settings["SD_OUTPUT_URL"], stack.folder))


def stored(stack: Stack, s3: S3Server) -> list[StoredFile]:
    images = images_of(stack, s3)
    return [file for day in images.storage.list_days() for file in images.list_files(day)]


def test_images_are_served_by_the_api_and_stored_in_the_bucket_only(service: Stack, s3: S3Server) -> None:
    job = service.api.post("/api/txt2img", {"prompt": "x", "num_images": 2}).json()

    names = {file.name for file in stored(service, s3) if file.job_id == job["id"]}
    day = datetime.fromisoformat(job["created_at"]).strftime("%Y/%m/%d")
    assert names == {f"{day}/{job['id']}-{index}.png" for index in (0, 1)}
    assert files_on_disk(service) == []
    wait_until(lambda: service.api.get("/health").json()["status"] == "ok")
    assert service.api.get("/health").json()["outputs"] == {"writable": True, "free_bytes": None}


def test_input_images_pass_through_the_bucket_and_are_removed_afterwards(service: Stack, s3: S3Server) -> None:
    image, mask = encoded(scene()), encoded(half_mask())
    parts = {"image": ("a.png", image), "mask": ("m.png", mask)}

    answer = service.api.http.post(f"{service.api.url}/api/img2img", files=parts, data={"prompt": "x"}, timeout=30)

    assert answer.status_code == 200, answer.text
    # Recorded, so that the images of a job that is never accepted can be removed.
    assert connect(service.settings["SD_REDIS_URL"]).zscore(f"{service.prefix}uploads", answer.json()["id"])
    assert (answer.json()["images"][0]["width"], answer.json()["images"][0]["height"]) == scene().size
    assert list(images_of(service, s3).inputs.list_folders()) == []
    assert files_on_disk(service) == []


def test_cancelling_a_queued_job_removes_its_input_images(service: Stack, s3: S3Server) -> None:
    busy = service.api.post(
        "/api/jobs", {"prompt": "x", "num_inference_steps": 100, "metadata": {"simulate": {"seconds": 30}}}
    ).json()
    parts = {"image": ("a.png", encoded(scene()))}
    waiting = service.api.http.post(
        f"{service.api.url}/api/img2img",
        files=parts,
        data={"prompt": "x"},
        headers={"Prefer": "wait=0"},
        timeout=30,
    )

    assert waiting.status_code == 202
    assert [folder.job_id for folder in images_of(service, s3).inputs.list_folders()] == [waiting.json()["id"]]

    for job_id in (waiting.json()["id"], busy["id"]):
        assert service.api.delete(f"/api/jobs/{job_id}").status_code == 200
    assert list(images_of(service, s3).inputs.list_folders()) == []
    service.api.wait_until_done(busy["id"])


def test_retention_removes_old_images_from_the_bucket_and_no_files_of_others(service: Stack, s3: S3Server) -> None:
    old, pinned = (service.api.post("/api/txt2img", {"prompt": "x"}).json()["id"] for _ in range(2))
    images, redis = images_of(service, s3), service.settings["SD_REDIS_URL"]
    for name in (foreign := ["2026/11/23/somebody-elses.png", "theirs.txt"]):
        images.storage.create(name, b"theirs", "a")
    images.storage.create(f"inputs/{old}/left-behind", b"left behind", "a")
    assert service.api.http.put(f"{service.api.url}/api/jobs/{pinned}/pin", timeout=10).ok
    store, later = Store(connect(redis)), datetime.now(UTC) + timedelta(days=2)
    ownership = Ownership.of(store, service.prefix, images)
    retention = Retention(store, service.prefix, images, lambda: ownership.claim() is None)

    removed = retention.apply(RetentionRules(None, timedelta(days=1), None), later)

    assert removed.files >= 2
    assert {file.job_id for file in stored(service, s3)} == {pinned}
    assert [images.storage.read(name) for name in foreign] == [b"theirs", b"theirs"]
    assert images.storage.read(f"inputs/{old}/left-behind") is None
    assert service.api.get(f"/api/jobs/{old}/images/0").status_code == 404
    assert service.api.get(f"/api/jobs/{pinned}/images/0").status_code == 200


def test_prune_removes_images_from_the_bucket(service: Stack, s3: S3Server) -> None:
    job = service.api.post("/api/txt2img", {"prompt": "x"}).json()

    prune = service.run([sys.executable, "-m", "compose.cli.app", "prune", "--older-than", "0h"])

    assert prune.wait() == 0, prune.output
    assert "Removed" in prune.output
    assert job["id"] not in {file.job_id for file in stored(service, s3)}
    assert service.api.get(f"{job['links']['self']}/images/0").status_code == 404


def test_images_of_a_killed_worker_are_reused_without_rendering_again(s3: S3Server, tmp_path: Path) -> None:
    url = s3.create_bucket("killed")
    with (
        Valkey(tmp_path) as valkey,
        Stack(valkey.url, tmp_path, SD_BACKENDS="null", SD_OUTPUT_URL=url, **s3.credentials) as stack,
    ):
        stack.start_api()
        doomed = stack.start_worker("null")
        body = {"prompt": "x", "num_images": 2, "num_inference_steps": 20, "metadata": {"simulate": {"seconds": 2}}}
        job_id = stack.api.post("/api/jobs", body).json()["id"]
        with stack.api.events(job_id) as events:
            next(event for event in events if event.type == "progress")
        # The worker can upload, but not record that it did.
        with valkey.holding_writes():
            wait_until(lambda: len(stored(stack, s3)) == 2)
            before = {file.name: file.modified_at for file in stored(stack, s3)}
            kill_process_tree(doomed)
        store, jobs = Store(connect(valkey.url)), Jobs(stack.prefix)
        store.client.zadd(f"{stack.prefix}leases", {job_id: 1})
        reaper = Reaper(store, jobs, JobHousekeeping(stack.prefix), JobRecovery(store, jobs))
        assert [reaper.reap(), reaper.reap()] == [0, 1]
        stack.start_worker("null")

        job = stack.api.wait_until_done(job_id)

        assert (job["state"], job["attempt"], len(job["images"])) == ("succeeded", 2, 2)
        assert {file.name: file.modified_at for file in stored(stack, s3)} == before
        assert stack.api.get(f"/api/jobs/{job_id}/images/1").status_code == 200


def test_prune_leaves_the_bucket_of_another_installation_alone_until_it_is_taken_over(
    service: Stack, s3: S3Server
) -> None:
    job = service.api.post("/api/txt2img", {"prompt": "x"}).json()

    def prune(*options: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "compose.cli.app", "prune", "--older-than", "0h", *options]
        process = service.run(command, SD_REDIS_PREFIX="another:")
        return process.wait(), " ".join(process.output.split())

    code, output = prune()
    assert code == 1
    assert output.startswith(f"SD_OUTPUT_URL={service.settings['SD_OUTPUT_URL']} ")
    assert "Nothing is deleted there" in output
    assert job["id"] in {file.job_id for file in stored(service, s3)}

    assert prune("--take-over")[0] == 0
    assert stored(service, s3) == []
    Ownership.of(Store(connect(service.settings["SD_REDIS_URL"])), service.prefix, images_of(service, s3)).take_over()


@pytest.mark.parametrize("damage", ["gone", "altered", "longer"])
def test_an_image_that_differs_from_the_record_is_not_served(service: Stack, s3: S3Server, damage: str) -> None:
    job = service.api.post("/api/txt2img", {"prompt": "x"}).json()
    bucket = open_bucket(s3, service.settings["SD_OUTPUT_URL"], service.folder)
    (name,) = [
        file.name for day in bucket.list_days() for file in bucket.list_files(day.name) if job["id"] in file.name
    ]
    data = bucket.read(name) or b""
    bucket.remove([name])
    match damage:
        case "altered":
            bucket.create(name, data[:-1] + bytes([data[-1] ^ 1]), "a")
        case "longer":
            bucket.create(name, data + b"x", "a")

    path = f"{job['links']['self']}/images/0"
    assert service.api.http.head(service.api.url + path, timeout=10).status_code == 404
    assert_problem(service.api.get(path), 404, "image-not-found")
    assert_problem(service.api.get(path, headers={"If-None-Match": "*"}), 404, "image-not-found")


@pytest.mark.parametrize("body", [{"response_format": "b64_json"}, {"output_format": "webp"}])
def test_a_response_carries_images_on_request(service: Stack, body: dict[str, Any]) -> None:
    answer = service.api.post("/api/txt2img", {"prompt": "x", **body}, headers={"Accept": "*/*"})

    assert answer.status_code == 200
    assert bool(answer.json()["images"][0].get("b64_json")) is ("response_format" in body)
    assert service.api.post("/api/txt2img", {"prompt": "x"}, headers={"Accept": "image/png"}).content[:4] == b"\x89PNG"


def test_a_large_image_is_served_in_chunks_and_complete(service: Stack) -> None:
    parts = {"image": ("a.png", noise_png(1200, 1000))}
    answer = service.api.http.post(f"{service.api.url}/api/img2img", files=parts, data={"prompt": "x"}, timeout=30)
    image = answer.json()["images"][0]
    assert image["bytes"] > CHUNK_BYTES

    content = requests.get(image["url"], timeout=20).content
    middle = requests.get(image["url"], headers={"Range": "bytes=100-2300000"}, timeout=20)

    assert len(content) == image["bytes"]
    assert (middle.status_code, middle.content) == (206, content[100:2300001])


def test_image_links_redirect_to_signed_urls_of_a_public_bucket(service: Stack, s3: S3Server) -> None:
    job = service.api.post("/api/txt2img", {"prompt": "x"}).json()
    api = service.start_api(
        SD_OUTPUT_DIR=str(service.folder / "another"),
        SD_OUTPUT_PUBLIC_URL=s3.url.replace("127.0.0.1", "localhost"),
    )
    path = f"{job['links']['self']}/images/0"

    redirect = api.get(path, allow_redirects=False)
    image = requests.get(redirect.headers["location"], timeout=10)

    assert (redirect.status_code, redirect.headers["cache-control"]) == (307, "no-store")
    assert redirect.headers["location"].startswith(s3.url.replace("127.0.0.1", "localhost"))
    assert "X-Amz-Signature=" in redirect.headers["location"]
    assert len(image.content) == job["images"][0]["bytes"]
    assert image.headers["content-type"] == "image/png"
    assert image.headers["content-disposition"] == f'inline; filename="{job["id"]}-0.png"'
    assert api.get(path).content == image.content
    # The signature would be for GET.
    head = api.http.head(api.url + path, timeout=10)
    assert (head.status_code, int(head.headers["content-length"])) == (200, len(image.content))
    assert_problem(api.get(f"{job['links']['self']}/images/5"), 404, "image-not-found")
