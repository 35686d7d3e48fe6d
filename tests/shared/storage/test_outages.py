"""What becomes of images, and what callers are told, while a bucket does not answer or refuses."""

import asyncio
import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from compose.doctor.findings import Finding, Level
from shared.errors import ConfigurationError, StorageUnavailable
from shared.storage.images import ImageStore
from shared.storage.object_store import StorageTimeouts
from tests.api.images import encoded, scene
from tests.api.problem import assert_problem
from tests.compose.doctor.installations import findings_of, installation
from tests.polling import wait_until
from tests.shared.storage.conftest import bucket_at, permitted
from tests.shared.storage.s3 import S3Server
from tests.stack import Stack
from tests.worker.bench import Bench, wake
from worker.engines.null import NullEngine

_numbers = itertools.count()
HASTY = StorageTimeouts(retry_seconds=0.3, request_seconds=0.5)
#: Callers are answered within this, whatever the storage does.
SOON = 12.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One that goes away."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def silent(server: S3Server) -> Iterator[S3Server]:
    yield server
    server.go_on()


def test_what_fails_is_tried_again_until_the_storage_answers(silent: S3Server, tmp_path: Path) -> None:
    bucket = bucket_at(
        silent, silent.create("patient"), tmp_path, StorageTimeouts(retry_seconds=20, request_seconds=0.5)
    )
    silent.fall_silent()
    writing = threading.Thread(target=bucket.create, args=("a.png", b"kept", "a"))
    begin = time.monotonic()
    writing.start()
    writing.join(1.5)
    assert writing.is_alive()

    silent.go_on()
    writing.join(15)

    assert time.monotonic() - begin > 1
    assert bucket.read("a.png") == b"kept"


@pytest.mark.parametrize("how", ["silent", "stopped"])
def test_what_goes_on_failing_ends_in_one_clear_error(silent: S3Server, tmp_path: Path, how: str) -> None:
    bucket = bucket_at(silent, silent.create(f"hasty-{how}"), tmp_path, HASTY)
    bucket.create("a.png", b"x", "a")
    silent.fall_silent() if how == "silent" else silent.stop()

    try:
        for work in (
            lambda: bucket.create("b.png", b"x", "b"),
            lambda: list(bucket.list_files("2026/11/23")),
            lambda: bucket.remove(["a.png"]),
            lambda: asyncio.run(bucket.read_chunk("a.png", 0, 1)),
        ):
            begin = time.monotonic()
            with pytest.raises(StorageUnavailable):
                work()
            assert time.monotonic() - begin < 8
        assert not bucket.disk_usage().is_writable
    finally:
        silent.go_on() if how == "silent" else silent.start()


def test_a_job_whose_image_cannot_be_stored_fails_and_says_so(redis_url: str, server: S3Server, tmp_path: Path) -> None:
    bench = Bench(redis_url, f"outage-{next(_numbers)}:", tmp_path)
    bucket = bucket_at(server, server.create("worker"), tmp_path, HASTY)
    runner = bench.runner(NullEngine(), ImageStore(bucket))
    plain, again = bench.submit(), bench.requeue(bench.start(bench.submit()))
    server.stop()

    try:
        for _ in (plain, again):
            wake(runner)
    finally:
        server.start()

    for job in (plain, again):
        failed = bench.read(job)
        assert failed.error is not None
        assert (failed.state, failed.error.code, failed.error.retryable) == ("failed", "storage-unavailable", True)


def test_callers_are_told_to_come_back(redis_url: str, server: S3Server, tmp_path: Path) -> None:
    url = server.create("callers")
    with Stack(redis_url, tmp_path, SD_BACKENDS="null", SD_OUTPUT_URL=url, **server.credentials) as stack:
        stack.start_worker("null")
        api = stack.start_api()
        job = api.post("/api/txt2img", {"prompt": "x"}).json()
        server.stop()
        try:
            begin = time.monotonic()
            for answer in (
                api.get(f"{job['links']['self']}/images/0"),
                api.post("/api/jobs", {"prompt": "x"}),
                api.http.post(f"{api.url}/api/img2img", files={"image": ("a", encoded(scene()))}, timeout=30),
            ):
                assert_problem(answer, 503, "storage-unavailable")
                assert int(answer.headers["retry-after"]) > 0
                assert time.monotonic() - begin < SOON
                begin = time.monotonic()
            health = api.get("/health").json()
            assert (health["status"], health["outputs"]["writable"]) == ("degraded", False)
            assert api.get(job["links"]["self"]).status_code == 200
        finally:
            server.start()
        server.create("callers")

        wait_until(lambda: api.post("/api/txt2img", {"prompt": "x"}).status_code == 200)


def test_a_worker_that_is_told_to_stop_does_not_wait_for_the_storage(
    redis_url: str, server: S3Server, tmp_path: Path
) -> None:
    settings = {"SD_OUTPUT_URL": server.create("leaving"), "SD_SHUTDOWN_GRACE_SECONDS": "1", **server.credentials}
    with Stack(redis_url, tmp_path, SD_BACKENDS="null", **settings) as stack:
        worker, api = stack.start_worker("null"), stack.start_api()
        body = {"prompt": "x", "metadata": {"simulate": {"seconds": 0.4}}}
        job = api.post("/api/jobs", body).json()
        server.stop()
        try:
            with api.events(job["id"]) as events:
                next(event for event in events if event.type == "progress" and event.data["fraction"] == 1)
            begin = time.monotonic()
            worker.send(signal.SIGTERM)
            worker.wait()
        finally:
            server.start()

        assert time.monotonic() - begin < SOON
        assert api.get(job["links"]["self"]).json()["state"] == "queued"


def test_a_bucket_that_is_not_there_or_refuses_stops_the_start(server: S3Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SD_OUTPUT_URL is wrong: there is no such bucket"):
        bucket_at(server, "s3://nobody-has-made-this", tmp_path)
    with S3Server(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="1") as strict:
        url = strict.create("strict")
        with pytest.raises(ConfigurationError, match="AWS_ACCESS_KEY_ID"):
            bucket_at(strict, url, tmp_path)


def test_a_process_says_in_one_sentence_what_is_wrong(stack: Stack, server: S3Server) -> None:
    (stack.folder / ".env").write_text("\n".join(f"{name}={value}" for name, value in server.credentials.items()))
    api = stack.run([sys.executable, "-m", "api.main"], SD_OUTPUT_URL="s3://nobody-has-made-this")
    bare = "import sys; sys.modules['obstore'] = None; from api.main import main; main()"
    without = stack.run([sys.executable, "-c", bare], SD_OUTPUT_URL="s3://images")

    assert (api.wait(), without.wait()) == (1, 1)
    assert api.lines[-1] == "SD_OUTPUT_URL is wrong: there is no such bucket."
    assert without.lines[-1] == "SD_OUTPUT_URL needs one more package: pip install 'imagegen[s3]'."


def test_a_storage_that_is_not_there_yet_may_come(server: S3Server, tmp_path: Path) -> None:
    url = server.create("later")
    server.stop()
    try:
        bucket = bucket_at(server, url, tmp_path, HASTY)
        assert not bucket.disk_usage().is_writable
    finally:
        server.start()
    server.create("later")

    assert bucket.disk_usage().is_writable


def test_a_storage_of_ones_own_is_believed_by_its_authority_alone(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    with S3Server(tmp_path, tmp_path / "server.pem") as server:
        url = server.create("mine", verify=str(tmp_path / "ca.pem"))
        known = bucket_at(server, url, tmp_path, ca_file=tmp_path / "ca.pem")
        with permitted(server):
            unknown = bucket_at(server, url, tmp_path, HASTY)

        known.create("a.png", b"x", "a")
        assert known.read("a.png") == b"x"
        assert not unknown.disk_usage().is_writable


def test_the_doctor_says_how_the_bucket_is(server: S3Server, tmp_path: Path) -> None:
    def told(url: str) -> list[Finding]:
        with permitted(server):
            return [
                finding
                for finding in findings_of("disk", installation(tmp_path, output_url=url))
                if "SD_OUTPUT" in finding.detail
            ]

    url = server.create("examined")
    (well,), (wrong,) = told(url), told("s3://nobody-has-made-this")
    server.stop()
    try:
        (away,) = told(url)
    finally:
        server.start()

    assert (well.level, well.detail) == (Level.OK, "SD_OUTPUT_URL=s3://examined is writable.")
    assert (wrong.level, wrong.detail) == (Level.PROBLEM, "SD_OUTPUT_URL is wrong: there is no such bucket.")
    assert (away.level, away.detail) == (Level.PROBLEM, "SD_OUTPUT_URL=s3://examined does not respond.")
