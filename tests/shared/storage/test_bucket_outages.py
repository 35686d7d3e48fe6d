"""Outages of a bucket: what happens to jobs, and what clients are told."""

import asyncio
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import trustme

from compose.doctor.findings import Level
from shared.errors import ConfigurationError, StorageUnavailable
from shared.settings.explanations import install_command
from shared.storage.bucket import BucketStore
from shared.storage.bucket_connection import BucketLocation
from shared.storage.images import ImageStore
from shared.storage.object_store import StorageTimeouts
from tests.api.images import encoded, scene
from tests.api.problem import assert_problem
from tests.compose.doctor.installations import findings_of, installation
from tests.shared.outbound.servers import Script, send, serve
from tests.shared.storage.conftest import credentials_of, open_bucket
from tests.shared.storage.s3 import S3Server, UnreliableS3Server
from tests.stack import Stack
from tests.support.polling import wait_until
from tests.worker.bench import Bench, wake
from worker.engines.null import NullEngine

_numbers = itertools.count()
Outage = Callable[[UnreliableS3Server], AbstractContextManager[None]]
CREDENTIALS = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "x"}
SHORT_TIMEOUTS = StorageTimeouts(retry_seconds=0.3, request_seconds=0.5)
#: Requests are answered within this time, whatever the storage does: 12 s, and the rest is for a busy machine.
MAX_SECONDS = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnreliableS3Server]:
    with UnreliableS3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def service(redis_url: str, server: UnreliableS3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder, url = tmp_path_factory.mktemp("service"), server.create_bucket("service")
    settings = {"SD_OUTPUT_URL": url, "SD_SHUTDOWN_GRACE_SECONDS": "1", **server.credentials}
    with Stack(redis_url, folder, SD_BACKENDS="null", **settings) as stack:
        stack.start_worker("null")
        stack.start_api()
        yield stack


@contextmanager
def refusing(server: UnreliableS3Server) -> Iterator[None]:
    server.refuse_connections()
    try:
        yield
    finally:
        server.accept_connections()


@contextmanager
def suspended(server: UnreliableS3Server) -> Iterator[None]:
    server.suspend()
    try:
        yield
    finally:
        server.resume()


def test_writes_are_retried_until_the_storage_answers(server: UnreliableS3Server, tmp_path: Path) -> None:
    timeouts = StorageTimeouts(retry_seconds=60, request_seconds=0.5)
    bucket = open_bucket(server, server.create_bucket("retried"), tmp_path, timeouts)
    writer = threading.Thread(target=bucket.create, args=("a.png", b"data", "a"))
    with suspended(server):
        writer.start()
        writer.join(1.5)
        assert writer.is_alive()

    writer.join(60)

    assert bucket.read("a.png") == b"data"


@pytest.mark.parametrize("outage", [suspended, refusing])
def test_operations_raise_storage_unavailable_during_an_outage(
    server: UnreliableS3Server, tmp_path: Path, outage: Outage
) -> None:
    bucket = open_bucket(server, server.create_bucket(f"outage-{outage.__name__}"), tmp_path, SHORT_TIMEOUTS)
    bucket.create("a.png", b"x", "a")

    def fails_in_time(operation: Callable[[], object]) -> None:
        begin = time.monotonic()
        with pytest.raises(StorageUnavailable):
            operation()
        assert time.monotonic() - begin < MAX_SECONDS

    operations = (
        lambda: bucket.create("b.png", b"x", "b"),
        lambda: list(bucket.list_files("2026/11/23")),
        lambda: bucket.remove(["a.png"]),
        lambda: asyncio.run(bucket.read_chunk("a.png", 0, 1)),
    )
    with outage(server), ThreadPoolExecutor(len(operations)) as threads:
        list(threads.map(fails_in_time, operations))
        assert not bucket.disk_usage().is_writable


def test_a_job_whose_image_cannot_be_stored_fails_with_storage_unavailable(
    redis_url: str, server: UnreliableS3Server, tmp_path: Path
) -> None:
    bench = Bench(redis_url, f"outage-{next(_numbers)}:", tmp_path)
    bucket = open_bucket(server, server.create_bucket("worker"), tmp_path, SHORT_TIMEOUTS)
    runner = bench.runner(NullEngine(), ImageStore(bucket))
    first_attempt, second_attempt = bench.submit(), bench.requeue(bench.start(bench.submit()))

    with refusing(server):
        for _ in range(2):
            wake(runner)

    for job in (first_attempt, second_attempt):
        failed = bench.read(job)
        assert failed.error is not None
        assert (failed.state, failed.error.code, failed.error.retryable) == ("failed", "storage-unavailable", True)


def test_requests_get_503_during_an_outage(service: Stack, server: UnreliableS3Server) -> None:
    api = service.api
    job = api.post("/api/txt2img", {"prompt": "x"}).json()

    with refusing(server):
        begin = time.monotonic()
        for answer in (
            api.get(f"{job['links']['self']}/images/0"),
            api.post("/api/jobs", {"prompt": "x"}),
            api.http.post(f"{api.url}/api/img2img", files={"image": ("a", encoded(scene()))}, timeout=30),
        ):
            assert_problem(answer, 503, "storage-unavailable")
            assert int(answer.headers["retry-after"]) > 0
            assert time.monotonic() - begin < MAX_SECONDS
            begin = time.monotonic()
        health = api.get("/health").json()
        assert (health["status"], health["outputs"]["writable"]) == ("degraded", False)
        assert api.get(job["links"]["self"]).status_code == 200

    wait_until(lambda: api.post("/api/txt2img", {"prompt": "x"}).status_code == 200)


def test_a_worker_shuts_down_in_time_during_an_outage(service: Stack, server: UnreliableS3Server) -> None:
    """The last test of `service`: it stops its worker."""
    api = service.api
    job = api.post("/api/jobs", {"prompt": "x", "metadata": {"simulate": {"seconds": 0.4}}}).json()

    with refusing(server):
        with api.events(job["id"]) as events:
            next(event for event in events if event.type == "progress" and event.data["fraction"] == 1)
        begin = time.monotonic()
        service.worker.send(signal.SIGTERM)
        service.worker.wait()

    assert time.monotonic() - begin < MAX_SECONDS
    assert api.get(job["links"]["self"]).json()["state"] == "queued"


def test_a_missing_or_forbidden_bucket_prevents_the_start(server: UnreliableS3Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SD_OUTPUT_URL is wrong: the bucket does not exist"):
        open_bucket(server, "s3://missing", tmp_path)
    with S3Server(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="1") as strict:
        url = strict.create_bucket("strict")
        with pytest.raises(ConfigurationError, match=r"AWS_ACCESS_KEY_ID.*InvalidAccessKeyId"):
            open_bucket(strict, url, tmp_path)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("403 Forbidden", "RequestTimeTooSkewed"),
        ("400 Bad Request", "ExpiredToken"),
        ("400 Bad Request", "AuthorizationHeaderMalformed"),
    ],
)
def test_what_the_service_refuses_is_told_without_its_other_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: str, code: str
) -> None:
    """As AWS writes it: the declaration of XML has a line of its own."""
    details = "<StringToSign>secret-of-somebody</StringToSign>"
    error = f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>It says why.</Message>{details}</Error>'
    answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(error)}\r\n\r\n{error}"
    with serve(Script(send(answer.encode()))) as service:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{service.port}"}.items():
            monkeypatch.setenv(name, value)

        with pytest.raises(ConfigurationError, match=rf"not writable \({code}: It says why\)"):
            BucketStore.connect(BucketLocation("s3://images"), tmp_path, SHORT_TIMEOUTS)

    assert f"{status}: {code}: It says why" in caplog.text
    assert "secret-of-somebody" not in caplog.text


def test_a_process_explains_a_wrong_bucket_in_one_sentence(stack: Stack, server: UnreliableS3Server) -> None:
    (stack.folder / ".env").write_text("\n".join(f"{name}={value}" for name, value in server.credentials.items()))
    api = stack.run([sys.executable, "-m", "api.main"], SD_OUTPUT_URL="s3://missing")
    no_library = "import sys; sys.modules['obstore'] = None; from api.main import main; main()"
    without_library = stack.run([sys.executable, "-c", no_library], SD_OUTPUT_URL="s3://images")

    assert (api.wait(), without_library.wait()) == (1, 1)
    # On a busy machine, a thread of the library may complain afterwards that the process ends.
    assert "SD_OUTPUT_URL is wrong: the bucket does not exist." in api.lines
    assert "Traceback" not in api.output
    assert without_library.lines[-1] == f"SD_OUTPUT_URL requires another package: {install_command('s3')}"


def test_a_storage_that_is_unreachable_at_the_start_is_used_later(server: UnreliableS3Server, tmp_path: Path) -> None:
    url = server.create_bucket("later")
    with refusing(server):
        bucket = open_bucket(server, url, tmp_path, SHORT_TIMEOUTS)
        assert not bucket.disk_usage().is_writable

    # Its timeouts are short, and this machine may be busy.
    wait_until(lambda: bucket.disk_usage().is_writable)


def test_a_private_storage_is_trusted_by_its_certificate_authority_only(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    with S3Server(tmp_path, tmp_path / "server.pem") as server:
        url = server.create_bucket("private", verify=str(tmp_path / "ca.pem"))
        trusting = open_bucket(server, url, tmp_path, ca_file=tmp_path / "ca.pem")
        distrusting = open_bucket(server, url, tmp_path, SHORT_TIMEOUTS)

        trusting.create("a.png", b"x", "a")
        assert trusting.read("a.png") == b"x"
        assert not distrusting.disk_usage().is_writable


def test_the_doctor_reports_the_state_of_the_bucket(server: UnreliableS3Server, tmp_path: Path) -> None:
    def finding(url: str) -> tuple[Level, str]:
        with credentials_of(server):
            findings = findings_of("disk", installation(tmp_path, output_url=url))
        (bucket,) = (finding for finding in findings if "SD_OUTPUT" in finding.detail)
        return bucket.level, bucket.detail

    url = server.create_bucket("examined")

    assert finding(url) == (Level.OK, "SD_OUTPUT_URL=s3://examined is writable.")
    assert finding("s3://missing") == (Level.PROBLEM, "SD_OUTPUT_URL is wrong: the bucket does not exist.")
    with refusing(server):
        assert finding(url) == (Level.PROBLEM, "SD_OUTPUT_URL=s3://examined does not respond.")
