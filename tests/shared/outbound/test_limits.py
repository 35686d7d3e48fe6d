"""Limits of the outbound client: timeouts and sizes."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from shared.errors import OutboundTimeout, ResponseTooLarge, Unreachable
from shared.net import outbound
from shared.net.address_policy import IpAddress
from shared.net.outbound import MAX_LOOKUPS, OutboundClient
from tests.shared.outbound.conftest import Caller, Names
from tests.shared.outbound.servers import OK, Act, Script, Server, hang, redirect, repeat, send, serve

TIMEOUT_SECONDS = 0.4
#: Far longer than any timeout here, and far shorter than a server keeps a client without one waiting.
MAX_SECONDS = 30
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < MAX_SECONDS


@pytest.mark.parametrize(
    "act",
    [
        hang,
        repeat(b"", HEAD, 0.05),
        repeat(b"H", pause=0.05),
        repeat(b"X: y\r\n", HEAD, 0.05),
        repeat(b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.05),
        repeat(b"x", HEAD + b"\r\n", 0.05),
        repeat(b"x", HEAD + b"Content-Length: 900\r\n\r\n", 0.05),
        repeat(b"1\r\nx\r\n", CHUNKED, 0.05),
        repeat(b"0", CHUNKED, 0.05),
        repeat(b"X: y\r\n", CHUNKED + b"0\r\n", 0.05),
    ],
    ids=[
        "silence",
        "half the headers",
        "half a line",
        "headers",
        "continue",
        "endless body",
        "body",
        "chunks",
        "length of a chunk",
        "trailers",
    ],
)
def test_a_slow_response_does_not_exceed_the_timeout(caller: Caller, server: Server, act: Act) -> None:
    server.script.act = act

    with in_time(), pytest.raises(OutboundTimeout):
        caller.get(timeout_seconds=TIMEOUT_SECONDS)


@pytest.mark.parametrize(
    "act",
    [
        repeat(b"X" * 60_000),
        repeat(b"X: " + b"y" * 1000 + b"\r\n", HEAD),
        repeat(b"x" * 1000, HEAD + b"\r\n"),
        repeat(b"1\r\nx\r\n" * 100, CHUNKED),
        repeat(b"1;" + b"x" * 60_000 + b"\r\nx\r\n", CHUNKED),
    ],
    ids=["line", "headers", "body", "chunks", "extensions"],
)
def test_an_endless_response_is_cut_off(caller: Caller, server: Server, act: Act) -> None:
    server.script.act = act

    with pytest.raises(ResponseTooLarge):
        caller.get(timeout_seconds=60)


@pytest.mark.parametrize(
    "act",
    [repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 100), repeat(b"X: y\r\n" * 100, CHUNKED + b"0\r\n")],
    ids=["interim responses", "trailers"],
)
def test_what_never_ends_before_or_after_a_response_is_cut_off(caller: Caller, server: Server, act: Act) -> None:
    server.script.act = act

    # Unreachable where Python itself allows a hundred at most, as Python 3.14 does in its later versions.
    with pytest.raises((ResponseTooLarge, Unreachable)):
        caller.get(timeout_seconds=60)


def test_a_too_large_content_length_is_refused_at_once(caller: Caller, server: Server) -> None:
    server.script.act = repeat(b"", HEAD + b"Content-Length: 1001\r\n\r\n", 0.1)

    with in_time(), pytest.raises(ResponseTooLarge) as raised:
        caller.get(timeout_seconds=60)

    assert raised.value.status == 200


def test_a_body_of_exactly_the_maximum_size_is_accepted(caller: Caller, server: Server) -> None:
    server.script.act = send(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)

    assert len(caller.get().body) == 1000


def test_the_status_is_known_if_the_body_times_out(caller: Caller, server: Server) -> None:
    server.script.act = repeat(b"x", b"HTTP/1.1 410 Gone\r\n\r\n", 0.05)

    # Long enough for the status to arrive on a busy machine.
    with pytest.raises(OutboundTimeout) as raised:
        caller.get(timeout_seconds=1.5)

    assert raised.value.status == 410


def test_a_compressed_body_is_not_decompressed(caller: Caller, server: Server) -> None:
    packed = b"\x1f\x8b packed"
    server.script.act = send(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)

    assert caller.get().body == packed


@pytest.mark.parametrize(
    "act",
    [
        lambda _: None,
        send(b"\r\n\r\n"),
        send(b"SSH-2.0-OpenSSH\r\n"),
        send(b"HTTP/1.1 abc OK\r\n\r\n"),
        send(HEAD + b"Content-Length: 10\r\n\r\nhalf"),
        send(CHUNKED + b"zz\r\n"),
        send(CHUNKED + b"5\r\nhalf"),
    ],
    ids=["nothing", "blank", "SSH", "no status", "half a body", "no chunk", "half a chunk"],
)
def test_an_incomplete_or_malformed_response_is_an_error(caller: Caller, server: Server, act: Act) -> None:
    server.script.act = act

    with in_time(), pytest.raises(Unreachable):
        caller.get()


def test_a_server_that_does_not_read_times_out(caller: Caller, server: Server) -> None:
    server.script.reads_request, server.script.act = False, hang

    with in_time(), pytest.raises(OutboundTimeout):
        caller.send("POST", body=b"x" * 50_000_000, timeout_seconds=TIMEOUT_SECONDS)


@pytest.mark.usefixtures("trusted")
def test_a_tls_server_that_does_not_read_times_out(names: Names, tls_server: Callable[..., Server]) -> None:
    server = tls_server("hooks.example.com", act=hang)
    server.script.reads_request = False

    with in_time(), pytest.raises(OutboundTimeout):
        Caller(names, server, "https").send("POST", body=b"x" * 50_000_000, timeout_seconds=TIMEOUT_SECONDS)


@pytest.mark.parametrize("piece", [b"", b"\x16"], ids=["silence", "drops"])
def test_an_endless_handshake_times_out(names: Names, server: Server, piece: bytes) -> None:
    server.script.reads_request, server.script.act = False, repeat(piece, b"\x16\x03\x03\x3f\xff", 0.05)

    with in_time(), pytest.raises(OutboundTimeout):
        Caller(names, server, "https").get(timeout_seconds=TIMEOUT_SECONDS)


def test_an_endless_lookup_times_out() -> None:
    timed_out = threading.Event()

    def resolve(_: str) -> list[Any]:
        timed_out.wait(2 * MAX_SECONDS)
        raise OSError

    with in_time(), pytest.raises(OutboundTimeout):
        OutboundClient(resolve=resolve).send("GET", "http://example.com/", timeout_seconds=TIMEOUT_SECONDS, max_bytes=1)
    timed_out.set()


def test_an_unknown_name_is_reported(names: Names) -> None:
    with pytest.raises(Unreachable, match="cannot be resolved"):
        OutboundClient(resolve=names).send("GET", "http://example.com/", timeout_seconds=TIMEOUT_SECONDS, max_bytes=1)


def test_a_refused_connection_is_reported_without_the_address(names: Names) -> None:
    with serve(Script(send(OK))) as server:
        caller = Caller(names, server)

    with pytest.raises(Unreachable, match="refuses connections") as raised:
        caller.get()

    assert "127.0.0.1" not in raised.value.detail


def test_redirects_share_the_timeout(caller: Caller, server: Server) -> None:
    def act(connection: Any) -> None:
        time.sleep(0.25)
        redirect("/")(connection)

    server.script.act = act

    with in_time(), pytest.raises(OutboundTimeout):
        caller.get(max_redirects=100, timeout_seconds=TIMEOUT_SECONDS)


def test_a_sink_receives_the_body_as_it_arrives(caller: Caller, server: Server) -> None:
    server.script.act = send(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)
    received = bytearray()

    answer = caller.get(sink=received.extend)

    assert (answer.status, answer.body, bytes(received)) == (200, b"", b"x" * 1000)


@pytest.mark.parametrize("error", [KeyError, OSError, requests.ConnectionError, ResponseTooLarge])
def test_an_exception_of_the_sink_ends_the_exchange_and_is_raised(
    caller: Caller, server: Server, error: type[Exception]
) -> None:
    def fail(_: bytes) -> None:
        raise error

    server.script.act = repeat(b"x", HEAD + b"\r\n", 0.05)

    with in_time(), pytest.raises(error) as raised:
        caller.get(sink=fail)

    assert raised.type is error


def test_lookups_go_on_once_the_system_allows_threads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def find_nothing(_: str) -> list[IpAddress]:
        raise OSError("no such name")

    client = OutboundClient(resolve=find_nothing)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(MAX_LOOKUPS + 1):
            with pytest.raises(Unreachable, match="no more threads"):
                client.send("GET", "http://example.com/", timeout_seconds=TIMEOUT_SECONDS, max_bytes=1)

    with pytest.raises(Unreachable, match="cannot be resolved"):
        client.send("GET", "http://example.com/", timeout_seconds=MAX_SECONDS, max_bytes=1)


def test_a_lookup_that_has_ended_makes_room_for_another(
    names: Names, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "MAX_LOOKUPS", 1)
    caller = Caller(names, server)

    assert [caller.get().status for _ in range(2)] == [200, 200]
