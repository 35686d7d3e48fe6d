"""More than anybody should send: the process neither grows nor stops to serve others."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import requests

from tests.api.intake.test_uploads import resident
from tests.api.problem import assert_problem
from tests.api.wire import open_connection, read_to_end
from tests.stack import Api, Stack

MEGABYTE = 1 << 20
GIGABYTE = 1 << 30
MOST_GROWTH = 40 * MEGABYTE
BOUNDARY = "boundary"
FORM = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
JSON = "Content-Type: application/json\r\n"
IMAGE = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
WORDS = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with Stack(redis_url, tmp_path_factory.mktemp("floods"), SD_BACKENDS="null") as stack:
        api = stack.start_api()
        # What every process comes to need once.
        assert requests.post(f"{api.url}/api/jobs", json={"prompt": "x", "image": "x"}, timeout=30).status_code == 422
        yield api
        assert "Traceback" not in api.process.output


@contextmanager
def flat(api: Api) -> Iterator[None]:
    """Fails where the process's memory has grown in the meantime, or somebody else had to wait."""
    with resident(api) as growth:
        yield
        begin = time.monotonic()
        assert api.get("/health/live").status_code == 200
        assert time.monotonic() - begin < 2
    assert growth() < MOST_GROWTH


def poured(api: Api, head: str, piece: bytes, most: int = GIGABYTE) -> bytes:
    """What is answered to a request whose body goes on until the other end hangs up, or `most` bytes are sent."""
    with open_connection(api) as call:
        call.sendall(head.encode())
        with suppress(ConnectionError):
            for _ in range(0, most, len(piece)):
                call.sendall(piece)
        return read_to_end(call)


@pytest.mark.parametrize("path", ["/api/jobs", "/api/txt2img", "/api/img2img", "/api/jobs/x", "/nothing"])
@pytest.mark.parametrize("told", [f"Content-Length: {GIGABYTE}", "Transfer-Encoding: chunked"], ids=["told", "chunked"])
def test_a_gigabyte_is_turned_away(api: Api, path: str, told: str) -> None:
    piece = b"100000\r\n" + b"x" * MEGABYTE + b"\r\n" if "chunked" in told else b"x" * MEGABYTE
    with flat(api):
        answer = poured(api, f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{JSON}{told}\r\n\r\n", piece)

    # Who goes on sending may find the connection gone before it has read why.
    assert answer[:12] in (b"HTTP/1.1 413", b"HTTP/1.1 404", b"HTTP/1.1 405", b"")


@pytest.mark.parametrize(
    ("kind", "begin"),
    [(JSON, '{"prompt": "'), (JSON, "[" * 100_000), (FORM, IMAGE), (FORM, WORDS)],
    ids=["json", "deep json", "image", "words"],
)
def test_a_gigabyte_that_says_it_is_less_is_cut_off(api: Api, kind: str, begin: str) -> None:
    path, told = "/api/img2img", 60 * MEGABYTE
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {told}\r\n\r\n{begin}"
    with flat(api):
        answer = poured(api, head, b"[" * MEGABYTE)

    assert answer[:12] in (b"HTTP/1.1 422", b"HTTP/1.1 413", b"HTTP/1.1 400", b"")


def test_requests_without_end_on_one_connection_are_cut_off(api: Api) -> None:
    many = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000
    with flat(api), open_connection(api) as call, suppress(ConnectionError):
        for _ in range(GIGABYTE // len(many)):
            call.sendall(many)


@pytest.mark.parametrize("size", [100_000, 10_000_000])
@pytest.mark.parametrize("piece", ["[", '{"a":', '{"image":', "[{},"])
def test_json_without_a_bottom_is_no_json(api: Api, piece: str, size: int) -> None:
    with flat(api):
        answer = sent(api, piece * (size // len(piece)))

    assert answer.status_code in (413, 422)


@pytest.mark.parametrize("entry", ['"x"', "1", "{}", "[]", '{"a":0}'])
@pytest.mark.parametrize("field", ["image", "loras", "webhook_events", "metadata", "unknown"])
def test_a_list_without_end_is_refused_before_each_entry_takes_memory(api: Api, field: str, entry: str) -> None:
    for size in (120_000, 10_000_000):
        with flat(api):
            answer = sent(api, f'{{"prompt":"x","{field}":[{",".join([entry] * (size // (len(entry) + 1)))}]}}')

        assert_problem(answer, 413, "payload-too-large")


@pytest.mark.parametrize("field", ["image", "loras", "webhook_events", "metadata"])
def test_of_many_wrong_entries_few_are_told(api: Api, field: str) -> None:
    with flat(api):
        answer = sent(api, f'{{"prompt":"x","{field}":[{",".join(["1"] * 15_000)}]}}')

    assert_problem(answer, 422, "invalid-request")
    assert len(answer.json()["errors"]) == 1


def sent(api: Api, body: str) -> requests.Response:
    headers = {"content-type": "application/json"}
    return requests.post(f"{api.url}/api/jobs", data=body.encode(), headers=headers, timeout=30)
