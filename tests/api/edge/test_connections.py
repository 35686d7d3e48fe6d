"""Slow and endless clients occupy a connection for a limited time, and nothing else."""

import http.client
import json
import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

import psutil
import pytest

from tests.api.wire import open_connection, read_to_end, send_raw
from tests.stack import Api, Stack

HEAD_SECONDS, BODY_SECONDS, HEAD_BYTES = 0.6, 0.9, 4096
#: How much later than that an answer may come on a busy machine.
LATE_SECONDS = 15
GET = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
POST = "POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def strict(null: Stack) -> Api:
    return null.start_api(
        SD_HEADER_TIMEOUT_SECONDS=str(HEAD_SECONDS),
        SD_BODY_TIMEOUT_SECONDS=str(BODY_SECONDS),
        SD_MAX_HEADER_BYTES=str(HEAD_BYTES),
    )


@pytest.fixture(scope="module", autouse=True)
def idle_since(strict: Api) -> Iterator[tuple[http.client.HTTPConnection, float]]:
    """A connection that is idle while the other tests run, and since when."""
    connection = http.client.HTTPConnection(urlsplit(strict.url).netloc, timeout=10)
    connection.request("GET", "/health/live")
    assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.auto_open = 0
    yield connection, time.monotonic()
    connection.close()


def code(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["code"]


@pytest.mark.parametrize("beginning", ["G", "GET /health/live HTTP/1.1\r\n", GET, f"{GET}X: y\r\n"])
def test_an_incomplete_head_gets_408(strict: Api, beginning: str) -> None:
    begin = time.monotonic()

    answer = send_raw(strict, beginning)

    assert code(answer) == (408, "request-timed-out")
    assert HEAD_SECONDS <= time.monotonic() - begin < HEAD_SECONDS + LATE_SECONDS


def test_a_slow_head_gets_408(strict: Api) -> None:
    begin = time.monotonic()
    with open_connection(strict) as call, ThreadPoolExecutor(1) as other:
        answer = other.submit(read_to_end, call)
        for byte in f"{GET}X: {'y' * 3000}":
            if answer.done():
                break
            call.sendall(byte.encode())
            time.sleep(0.01)

    assert code(answer.result()) == (408, "request-timed-out")
    assert time.monotonic() - begin < HEAD_SECONDS + LATE_SECONDS


def test_a_silent_connection_is_closed_without_an_answer(strict: Api) -> None:
    assert send_raw(strict, "") == b""


def test_a_slow_second_request_gets_408_too(strict: Api) -> None:
    answer = send_raw(strict, f"{GET}\r\n{GET}")

    first, _, second = answer.partition(b'{"status":"ok"}')
    assert first.startswith(b"HTTP/1.1 200")
    assert code(second) == (408, "request-timed-out")


@pytest.mark.parametrize("sent", ["", '{"prompt"'])
def test_an_incomplete_body_gets_408(strict: Api, sent: str) -> None:
    begin = time.monotonic()

    answer = send_raw(strict, f"{POST}Content-Length: 15\r\n\r\n{sent}")

    assert code(answer) == (408, "request-timed-out")
    assert BODY_SECONDS <= time.monotonic() - begin < BODY_SECONDS + LATE_SECONDS


def test_a_slow_body_gets_408(strict: Api) -> None:
    begin = time.monotonic()
    with open_connection(strict) as call, ThreadPoolExecutor(1) as other:
        call.sendall(f"{POST}Content-Length: 1000\r\n\r\n".encode())
        answer = other.submit(read_to_end, call)
        while not answer.done() and time.monotonic() - begin < 2 * LATE_SECONDS:
            call.sendall(b" ")
            time.sleep(0.02)

    assert code(answer.result()) == (408, "request-timed-out")
    assert time.monotonic() - begin < BODY_SECONDS + LATE_SECONDS


def test_waiting_for_an_image_is_not_a_slow_request(strict: Api) -> None:
    body = {"prompt": "x", "metadata": {"simulate": {"seconds": BODY_SECONDS + 0.5}}}

    assert strict.post("/api/txt2img", body).status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        f"{GET}X: {'y' * HEAD_BYTES}\r\n\r\n",
        f"{GET}{'y' * HEAD_BYTES}: x\r\n\r\n",
        GET + "".join(f"X{n}: y\r\n" for n in range(1000)) + "\r\n",
        f"GET /{'y' * HEAD_BYTES} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET /?{'y' * HEAD_BYTES} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        # Endless: refused once too much has arrived.
        f"{GET}X: {'y' * 400_000}",
        f"GET /{'y' * 400_000}",
    ],
    ids=["value", "name", "many", "path", "query", "endless-value", "endless-path"],
)
def test_a_head_that_is_too_large_gets_431(strict: Api, head: str) -> None:
    assert code(send_raw(strict, head)) == (431, "headers-too-large")


def test_a_head_within_the_limit_is_accepted(strict: Api) -> None:
    answer = send_raw(strict, f"{GET}Connection: close\r\nX: {'y' * (HEAD_BYTES - 200)}\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 100,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX\x00: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: y\r\n\r\n",
    ],
)
def test_malformed_http_gets_400(strict: Api, text: bytes) -> None:
    assert code(send_raw(strict, text)) == (400, "malformed-request")


def test_a_hundred_slow_clients_delay_nobody(api: Api) -> None:
    """This API waits for 15 s: others are answered before it sends the slow ones away."""
    with ExitStack() as slow:
        calls = [slow.enter_context(open_connection(api)) for _ in range(100)]
        for call in calls:
            call.sendall(GET.encode())

        assert {api.get("/health/live").status_code for _ in range(20)} == {200}

        assert select.select(calls, [], [], 0) == ([], [], [])


def test_slow_clients_leave_nothing_behind(strict: Api) -> None:
    process = psutil.Process(strict.process.pid)
    before = process.num_fds()

    with ThreadPoolExecutor(50) as many:
        slow = [many.submit(send_raw, strict, GET) for _ in range(50)]
        assert {code(one.result())[0] for one in slow} == {408}

    assert process.num_fds() <= before + 5


def test_an_endless_head_takes_no_memory(strict: Api) -> None:
    process = psutil.Process(strict.process.pid)
    before = process.memory_info().rss

    with ThreadPoolExecutor(20) as many:
        answers = list(many.map(lambda _: send_raw(strict, f"{GET}X: {'y' * 5_000_000}"), range(40)))

    assert {code(answer)[0] for answer in answers if answer} <= {431}
    assert process.memory_info().rss - before < 30_000_000


def test_an_idle_connection_stays_open_between_requests(
    idle_since: tuple[http.client.HTTPConnection, float],
) -> None:
    connection, since = idle_since
    # uvicorn itself hangs up after 5 s: for a client that asks every 5 s, just as its next request comes.
    rest = max(0.0, since + 5.5 - time.monotonic())
    assert select.select([connection.sock], [], [], rest) == ([], [], [])

    connection.request("GET", "/health/live")

    assert connection.getresponse().read() == b'{"status":"ok"}'
