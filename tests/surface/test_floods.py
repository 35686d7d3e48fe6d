"""Oversized requests neither grow the process nor block other callers."""

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
MAX_GROWTH = 40 * MEGABYTE
BOUNDARY = "boundary"
FORM = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
JSON = "Content-Type: application/json\r\n"
IMAGE_PART = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
PROMPT_PART = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with Stack(redis_url, tmp_path_factory.mktemp("floods"), SD_BACKENDS="null") as stack:
        api = stack.start_api()
        # Memory that every process allocates once.
        assert requests.post(f"{api.url}/api/jobs", json={"prompt": "x", "image": "x"}, timeout=30).status_code == 422
        yield api
        assert "Traceback" not in api.process.output


@contextmanager
def no_growth(api: Api) -> Iterator[None]:
    """Fails if the memory of the process grows during the block, or another caller has to wait."""
    with resident(api) as growth:
        yield
        begin = time.monotonic()
        assert api.get("/health/live").status_code == 200
        assert time.monotonic() - begin < 20
    assert growth() < MAX_GROWTH


def flood(api: Api, head: str, chunk: bytes, limit: int = GIGABYTE) -> bytes:
    """The answer to a request that sends its body until the server disconnects or `limit` bytes are sent."""
    with open_connection(api) as call:
        call.sendall(head.encode())
        with suppress(ConnectionError):
            for _ in range(0, limit, len(chunk)):
                call.sendall(chunk)
        return read_to_end(call)


@pytest.mark.parametrize("path", ["/api/jobs", "/api/txt2img", "/api/img2img", "/api/jobs/x", "/nothing"])
@pytest.mark.parametrize(
    "length", [f"Content-Length: {GIGABYTE}", "Transfer-Encoding: chunked"], ids=["announced", "chunked"]
)
def test_a_body_of_a_gigabyte_is_refused(api: Api, path: str, length: str) -> None:
    chunk = b"100000\r\n" + b"x" * MEGABYTE + b"\r\n" if "chunked" in length else b"x" * MEGABYTE
    with no_growth(api):
        answer = flood(api, f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{JSON}{length}\r\n\r\n", chunk)

    # A client that keeps sending may lose the connection before it reads the answer.
    assert answer[:12] in (b"HTTP/1.1 413", b"HTTP/1.1 404", b"HTTP/1.1 405", b"")


@pytest.mark.parametrize(
    ("kind", "begin"),
    [(JSON, '{"prompt": "'), (JSON, "[" * 100_000), (FORM, IMAGE_PART), (FORM, PROMPT_PART)],
    ids=["json", "deep json", "image", "prompt"],
)
def test_a_body_longer_than_announced_is_cut_off(api: Api, kind: str, begin: str) -> None:
    path, announced = "/api/img2img", 60 * MEGABYTE
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {announced}\r\n\r\n{begin}"
    with no_growth(api):
        answer = flood(api, head, b"[" * MEGABYTE)

    assert answer[:12] in (b"HTTP/1.1 422", b"HTTP/1.1 413", b"HTTP/1.1 400", b"")


def test_endless_pipelined_requests_are_cut_off(api: Api) -> None:
    many = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000
    with no_growth(api), open_connection(api) as call, suppress(ConnectionError):
        for _ in range(GIGABYTE // len(many)):
            call.sendall(many)


@pytest.mark.parametrize("size", [100_000, 10_000_000])
@pytest.mark.parametrize("piece", ["[", '{"a":', '{"image":', "[{},"])
def test_deeply_nested_json_is_refused(api: Api, piece: str, size: int) -> None:
    with no_growth(api):
        answer = sent(api, piece * (size // len(piece)))

    assert answer.status_code in (413, 422)


@pytest.mark.parametrize("entry", ['"x"', "1", "{}", "[]", '{"a":0}'])
@pytest.mark.parametrize("field", ["image", "loras", "webhook_events", "metadata", "unknown"])
def test_a_huge_list_is_refused_before_its_entries_take_memory(api: Api, field: str, entry: str) -> None:
    for size in (120_000, 10_000_000):
        with no_growth(api):
            answer = sent(api, f'{{"prompt":"x","{field}":[{",".join([entry] * (size // (len(entry) + 1)))}]}}')

        assert_problem(answer, 413, "payload-too-large")


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
def test_a_message_of_an_agent_with_a_huge_list_is_refused_before_it_takes_memory(api: Api, version: str) -> None:
    # The first message loads the SDK.
    assert call_tool(api, "list_models", "{}", version).status_code != 413
    with no_growth(api):
        answer = call_tool(api, "list_models", f'{{"prompt":[{",".join(["{}"] * 10_000_000)}]}}', version)

    assert_problem(answer, 413, "payload-too-large")


def test_a_large_image_of_an_agent_is_not_held_in_memory(api: Api) -> None:
    assert call_tool(api, "list_models", "{}").status_code == 200
    with no_growth(api):
        answer = call_tool(api, "edit_image", f'{{"prompt":"x","image":"{"A" * 60 * MEGABYTE}"}}')

    assert "image may have at most" in answer.text


@pytest.mark.parametrize("field", ["image", "loras", "webhook_events", "metadata"])
def test_only_a_few_of_many_wrong_entries_are_named(api: Api, field: str) -> None:
    with no_growth(api):
        answer = sent(api, f'{{"prompt":"x","{field}":[{",".join(["1"] * 15_000)}]}}')

    assert_problem(answer, 422, "invalid-request")
    assert len(answer.json()["errors"]) == 1


def call_tool(api: Api, name: str, arguments: str, version: str = "2025-11-25") -> requests.Response:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    headers["mcp-protocol-version"] = version
    message = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{arguments}}}}}'
    return requests.post(f"{api.url}/mcp", data=message.encode(), headers=headers, timeout=60)


def sent(api: Api, body: str) -> requests.Response:
    headers = {"content-type": "application/json"}
    return requests.post(f"{api.url}/api/jobs", data=body.encode(), headers=headers, timeout=30)
