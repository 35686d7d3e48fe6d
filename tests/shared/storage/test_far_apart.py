"""An API, a worker and a housekeeper that share a bucket and no disk."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.redis.store import Store, connect
from shared.storage.images import ImageStore, StoredFile
from tests.api.images import encoded, half_mask, scene
from tests.faults.processes import kill_process_tree
from tests.polling import wait_until
from tests.shared.storage.conftest import bucket_at
from tests.shared.storage.s3 import S3Server
from tests.stack import Stack
from tests.valkey import Valkey
from worker.housekeeper.ownership import Ownership
from worker.housekeeper.retention import Retention, RetentionRules


def files_on_disk(stack: Stack) -> list[Path]:
    return [path for path in stack.folder.rglob("*") if path.is_file()]


def images_of(stack: Stack, s3: S3Server) -> ImageStore:
    return ImageStore(bucket_at(s3, stack.settings["SD_OUTPUT_URL"], stack.folder))


def stored(stack: Stack, s3: S3Server) -> list[StoredFile]:
    images = images_of(stack, s3)
    return [file for day in images.storage.list_days() for file in images.list_files(day)]


def test_what_a_worker_makes_is_had_from_the_api_and_lies_in_the_bucket_alone(far: Stack, s3: S3Server) -> None:
    job = far.api.post("/api/txt2img", {"prompt": "x", "num_images": 2}).json()

    names = {file.name for file in stored(far, s3) if file.job_id == job["id"]}
    day = datetime.fromisoformat(job["created_at"]).strftime("%Y/%m/%d")
    assert names == {f"{day}/{job['id']}-{index}.png" for index in (0, 1)}
    assert files_on_disk(far) == []
    health = far.api.get("/health").json()
    assert (health["status"], health["outputs"]) == ("ok", {"writable": True, "free_bytes": None})


def test_a_image_that_comes_with_a_request_goes_through_the_bucket_and_is_gone_after(far: Stack, s3: S3Server) -> None:
    image, mask = encoded(scene()), encoded(half_mask())
    parts = {"image": ("a.png", image), "mask": ("m.png", mask)}

    answer = far.api.http.post(f"{far.api.url}/api/img2img", files=parts, data={"prompt": "x"}, timeout=30)

    assert answer.status_code == 200, answer.text
    # Where it is known which images came, those whose job is never accepted can be removed.
    assert connect(far.settings["SD_REDIS_URL"]).zscore(f"{far.prefix}uploads", answer.json()["id"])
    assert (answer.json()["images"][0]["width"], answer.json()["images"][0]["height"]) == scene().size
    assert list(images_of(far, s3).inputs.list_folders()) == []
    assert files_on_disk(far) == []


def test_what_came_with_a_job_that_waits_is_cancelled_with_it(far: Stack, s3: S3Server) -> None:
    busy = far.api.post(
        "/api/jobs", {"prompt": "x", "num_inference_steps": 100, "metadata": {"simulate": {"seconds": 30}}}
    ).json()
    parts = {"image": ("a.png", encoded(scene()))}
    waiting = far.api.http.post(
        f"{far.api.url}/api/img2img", files=parts, data={"prompt": "x"}, headers={"Prefer": "wait=0"}, timeout=30
    )

    assert waiting.status_code == 202
    assert [folder.job_id for folder in images_of(far, s3).inputs.list_folders()] == [waiting.json()["id"]]

    for job_id in (waiting.json()["id"], busy["id"]):
        assert far.api.delete(f"/api/jobs/{job_id}").status_code == 200
    assert list(images_of(far, s3).inputs.list_folders()) == []
    far.api.wait_until_done(busy["id"])


def test_old_images_go_from_the_bucket_and_what_others_keep_there_stays(far: Stack, s3: S3Server) -> None:
    old, pinned = (far.api.post("/api/txt2img", {"prompt": "x"}).json()["id"] for _ in range(2))
    images, redis = images_of(far, s3), far.settings["SD_REDIS_URL"]
    for name in (theirs := ["2026/11/23/somebody-elses.png", "theirs.txt"]):
        images.storage.create(name, b"theirs", "a")
    images.storage.create(f"inputs/{old}/left-behind", b"left behind", "a")
    assert far.api.http.put(f"{far.api.url}/api/jobs/{pinned}/pin", timeout=10).ok
    store, later = Store(connect(redis)), datetime.now(UTC) + timedelta(days=2)
    ownership = Ownership.of(store, far.prefix, images)
    retention = Retention(store, far.prefix, images, lambda: ownership.claim() is None, lambda: later)

    removed = retention.apply(RetentionRules(None, timedelta(days=1), None))

    assert removed.files >= 2
    assert {file.job_id for file in stored(far, s3)} == {pinned}
    assert [images.storage.read(name) for name in theirs] == [b"theirs", b"theirs"]
    assert images.storage.read(f"inputs/{old}/left-behind") is None
    assert far.api.get(f"/api/jobs/{old}/images/0").status_code == 404
    assert far.api.get(f"/api/jobs/{pinned}/images/0").status_code == 200


def test_images_are_pruned_by_hand(far: Stack, s3: S3Server) -> None:
    job = far.api.post("/api/txt2img", {"prompt": "x"}).json()

    told = far.run([sys.executable, "-m", "compose.cli.app", "prune", "--older-than", "0h"])

    assert told.wait() == 0, told.output
    assert "Removed" in told.output
    assert job["id"] not in {file.job_id for file in stored(far, s3)}
    assert far.api.get(f"{job['links']['self']}/images/0").status_code == 404


def test_a_worker_killed_between_upload_and_record_is_made_up_for_without_rendering_again(
    s3: S3Server, tmp_path: Path
) -> None:
    url = s3.create("killed")
    with (
        Valkey(tmp_path) as valkey,
        Stack(valkey.url, tmp_path, SD_BACKENDS="null", SD_OUTPUT_URL=url, **s3.credentials) as stack,
    ):
        stack.start_api()
        stack.start_housekeeper()
        doomed = stack.start_worker("null")
        body = {"prompt": "x", "num_images": 2, "num_inference_steps": 20, "metadata": {"simulate": {"seconds": 2}}}
        job_id = stack.api.post("/api/jobs", body).json()["id"]
        with stack.api.events(job_id) as events:
            next(event for event in events if event.type == "progress")
        # The worker has time to upload, and nobody to tell of it.
        valkey.suspend()
        wait_until(lambda: len(stored(stack, s3)) == 2)
        before = {file.name: file.modified_at for file in stored(stack, s3)}
        kill_process_tree(doomed)
        valkey.resume()
        # As if its worker had been silent for longer than a lease.
        connect(valkey.url).zadd(f"{stack.prefix}leases", {job_id: 1})
        stack.start_worker("null")

        job = stack.api.wait_until_done(job_id)

        assert (job["state"], job["attempt"], len(job["images"])) == ("succeeded", 2, 2)
        assert {file.name: file.modified_at for file in stored(stack, s3)} == before
        assert stack.api.get(f"/api/jobs/{job_id}/images/1").status_code == 200


def test_the_bucket_of_another_installation_is_left_alone_until_it_is_taken_over(far: Stack, s3: S3Server) -> None:
    job = far.api.post("/api/txt2img", {"prompt": "x"}).json()

    def prune(*options: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "compose.cli.app", "prune", "--older-than", "0h", *options]
        told = far.run(command, SD_REDIS_PREFIX="another:")
        return told.wait(), " ".join(told.output.split())

    refused = prune()
    assert refused[0] == 1
    assert refused[1].startswith(f"SD_OUTPUT_URL={far.settings['SD_OUTPUT_URL']} ")
    assert "Nothing is removed there" in refused[1]
    assert job["id"] in {file.job_id for file in stored(far, s3)}

    assert prune("--take-over")[0] == 0
    assert stored(far, s3) == []
    assert (
        Ownership.of(Store(connect(far.settings["SD_REDIS_URL"])), far.prefix, images_of(far, s3)).take_over() is None
    )
