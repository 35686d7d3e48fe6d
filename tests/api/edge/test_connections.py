"""Clients that are slow, or have no end, cost a connection for a time and nothing more."""

import http.client
import json
import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psutil
import pytest

from tests.api.wire import open_connection, read_to_end, send_raw
from tests.stack import Api, Stack

HEAD_SECONDS, BODY_SECONDS, HEAD_BYTES = 1.0, 1.5, 4096
GET = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
POST = "POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def strict(null: Stack) -> Iterator[Api]:
    return null.start_api(
        SD_HEADER_TIMEOUT_SECONDS=str(HEAD_SECONDS),
        SD_BODY_TIMEOUT_SECONDS=str(BODY_SECONDS),
        SD_MAX_HEADER_BYTES=str(HEAD_BYTES),
    )


def code(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["code"]


@pytest.mark.parametrize("beginning", ["G", "GET /health/live HTTP/1.1\r\n", GET, f"{GET}X: y\r\n"])
def test_a_head_that_stops_is_answered_408(strict: Api, beginning: str) -> None:
    begin = time.monotonic()

    answer = send_raw(strict, beginning)

    assert code(answer) == (408, "request-timed-out")
    assert HEAD_SECONDS <= time.monotonic() - begin < HEAD_SECONDS + 2


def test_a_head_that_drips_is_answered_408(strict: Api) -> None:
    begin = time.monotonic()
    with open_connection(strict) as call, ThreadPoolExecutor(1) as other:
        answer = other.submit(read_to_end, call)
        for byte in f"{GET}X: {'y' * 1000}":
            if answer.done():
                break
            call.sendall(byte.encode())
            time.sleep(0.01)

    assert code(answer.result()) == (408, "request-timed-out")
    assert time.monotonic() - begin < HEAD_SECONDS + 2


def test_a_connection_that_says_nothing_is_closed_without_a_word(strict: Api) -> None:
    assert send_raw(strict, "") == b""


def test_a_second_request_may_not_be_slower_than_the_first(strict: Api) -> None:
    answer = send_raw(strict, f"{GET}\r\n{GET}")

    first, _, second = answer.partition(b'{"status":"ok"}')
    assert first.startswith(b"HTTP/1.1 200")
    assert code(second) == (408, "request-timed-out")


def test_a_connection_may_rest_for_longer_than_clients_ask_again(strict: Api) -> None:
    connection = http.client.HTTPConnection(urlsplit(strict.url).netloc, timeout=10)
    connection.request("GET", "/health/live")
    assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.auto_open = 0
    # uvicorn itself hangs up after 5 s: for a client that asks every 5 s, just as its next request comes.
    assert select.select([connection.sock], [], [], 5.5) == ([], [], [])

    connection.request("GET", "/health/live")

    assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()


@pytest.mark.parametrize("sent", ["", '{"prompt"'])
def test_a_body_that_stops_is_answered_408(strict: Api, sent: str) -> None:
    begin = time.monotonic()

    answer = send_raw(strict, f"{POST}Content-Length: 15\r\n\r\n{sent}")

    assert code(answer) == (408, "request-timed-out")
    assert BODY_SECONDS <= time.monotonic() - begin < BODY_SECONDS + 2


def test_a_body_that_drips_is_answered_408(strict: Api) -> None:
    begin = time.monotonic()
    with open_connection(strict) as call, ThreadPoolExecutor(1) as other:
        call.sendall(f"{POST}Content-Length: 1000\r\n\r\n".encode())
        answer = other.submit(read_to_end, call)
        while not answer.done() and time.monotonic() - begin < 10:
            call.sendall(b" ")
            time.sleep(0.02)

    assert code(answer.result()) == (408, "request-timed-out")
    assert time.monotonic() - begin < BODY_SECONDS + 2


def test_who_waits_for_a_image_is_not_taken_for_slow(strict: Api) -> None:
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
        # Without an end: refused for what has come.
        f"{GET}X: {'y' * 400_000}",
        f"GET /{'y' * 400_000}",
    ],
    ids=["value", "name", "many", "path", "query", "endless-value", "endless-path"],
)
def test_a_head_that_is_too_large_is_answered_431(strict: Api, head: str) -> None:
    assert code(send_raw(strict, head)) == (431, "headers-too-large")


def test_a_head_just_small_enough_is_read(strict: Api) -> None:
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
def test_what_is_no_http_is_answered_400(strict: Api, text: bytes) -> None:
    assert code(send_raw(strict, text)) == (400, "malformed-request")


def test_a_hundred_slow_clients_hold_up_nobody(strict: Api) -> None:
    process = psutil.Process(strict.process.pid)
    before = process.num_fds()
    with ThreadPoolExecutor(100) as many:
        slow = [many.submit(send_raw, strict, GET) for _ in range(100)]
        spent = []
        for _ in range(20):
            begin = time.monotonic()
            assert strict.get("/health/live").status_code == 200
            spent.append(time.monotonic() - begin)
        assert {code(one.result())[0] for one in slow} == {408}

    assert sorted(spent)[10] < 0.25
    assert process.num_fds() <= before + 5


def test_a_head_without_an_end_takes_no_memory(strict: Api) -> None:
    process = psutil.Process(strict.process.pid)
    before = process.memory_info().rss

    with ThreadPoolExecutor(20) as many:
        answers = list(many.map(lambda _: send_raw(strict, f"{GET}X: {'y' * 5_000_000}"), range(40)))

    assert {code(answer)[0] for answer in answers if answer} <= {431}
    assert process.memory_info().rss - before < 30_000_000
