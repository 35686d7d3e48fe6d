"""When an exchange through the outbound client ends: in time, and before it takes too much."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from shared.errors import OutboundTimeout, ResponseTooLarge, Unreachable
from shared.net.outbound import OutboundClient
from tests.shared.outbound.conftest import Caller, Names
from tests.shared.outbound.servers import OK, Act, Script, Server, again, moved, say, serve

#: As long as any of these may take.
SECONDS = 0.4
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@contextlib.contextmanager
def soon() -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < SECONDS + 1


@pytest.mark.parametrize(
    "act",
    [
        lambda _: time.sleep(5),
        again(b"", HEAD, 0.05),
        again(b"H", seconds=0.05),
        again(b"X: y\r\n", HEAD, 0.05),
        again(b"HTTP/1.1 100 Continue\r\n\r\n", seconds=0.05),
        again(b"x", HEAD + b"\r\n", 0.05),
        again(b"x", HEAD + b"Content-Length: 900\r\n\r\n", 0.05),
        again(b"1\r\nx\r\n", CHUNKED, 0.05),
        again(b"0", CHUNKED, 0.05),
        again(b"X: y\r\n", CHUNKED + b"0\r\n", 0.05),
    ],
    ids=[
        "silence",
        "half a head",
        "half a line",
        "headers",
        "continue",
        "body without end",
        "body",
        "chunks",
        "length of a chunk",
        "trailers",
    ],
)
def test_drop_by_drop_does_not_buy_time(caller: Caller, server: Server, act: Act) -> None:
    server.script.act = act

    with soon(), pytest.raises(OutboundTimeout):
        caller.get(timeout_seconds=SECONDS)


@pytest.mark.parametrize(
    "act",
    [
        again(b"X" * 60_000),
        again(b"X: " + b"y" * 1000 + b"\r\n", HEAD),
        again(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        again(b"x" * 1000, HEAD + b"\r\n"),
        again(b"1\r\nx\r\n" * 100, CHUNKED),
        again(b"1;" + b"x" * 60_000 + b"\r\nx\r\n", CHUNKED),
        again(b"X: y\r\n" * 100, CHUNKED + b"0\r\n"),
    ],
    ids=["line", "headers", "continue", "body", "chunks", "extensions", "trailers"],
)
def test_a_flood_is_not_drunk(caller: Caller, server: Server, act: Act) -> None:
    server.script.act = act

    with soon(), pytest.raises(ResponseTooLarge):
        caller.get(timeout_seconds=5)


def test_a_body_that_says_that_it_is_too_large_is_not_waited_for(caller: Caller, server: Server) -> None:
    server.script.act = again(b"", HEAD + b"Content-Length: 1001\r\n\r\n", 0.1)

    with soon(), pytest.raises(ResponseTooLarge) as raised:
        caller.get(timeout_seconds=5)

    assert raised.value.status == 200


def test_what_fits_exactly_is_taken(caller: Caller, server: Server) -> None:
    server.script.act = say(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)

    assert len(caller.get().body) == 1000


def test_the_status_is_known_though_the_body_is_not(caller: Caller, server: Server) -> None:
    server.script.act = again(b"x", b"HTTP/1.1 410 Gone\r\n\r\n", 0.05)

    with pytest.raises(OutboundTimeout) as raised:
        caller.get(timeout_seconds=SECONDS)

    assert raised.value.status == 410


def test_a_bomb_is_not_unpacked(caller: Caller, server: Server) -> None:
    packed = b"\x1f\x8b packed"
    server.script.act = say(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)

    assert caller.get().body == packed


@pytest.mark.parametrize(
    "act",
    [
        lambda _: None,
        say(b"\r\n\r\n"),
        say(b"SSH-2.0-OpenSSH\r\n"),
        say(b"HTTP/1.1 abc OK\r\n\r\n"),
        say(HEAD + b"Content-Length: 10\r\n\r\nhalf"),
        say(CHUNKED + b"zz\r\n"),
        say(CHUNKED + b"5\r\nhalf"),
    ],
    ids=["nothing", "blank", "SSH", "no status", "half a body", "no chunk", "half a chunk"],
)
def test_half_an_answer_is_none(caller: Caller, server: Server, act: Act) -> None:
    server.script.act = act

    with soon(), pytest.raises(Unreachable):
        caller.get()


def test_a_server_that_does_not_read_is_not_waited_for(caller: Caller, server: Server) -> None:
    server.script.silent, server.script.act = True, lambda _: time.sleep(5)

    with soon(), pytest.raises(OutboundTimeout):
        caller.send("POST", body=b"x" * 50_000_000, timeout_seconds=SECONDS)


@pytest.mark.usefixtures("trusted")
def test_a_server_that_does_not_read_is_not_waited_for_in_tls_either(
    names: Names, secure: Callable[..., Server]
) -> None:
    server = secure("hooks.example.com", act=lambda _: time.sleep(5))
    server.script.silent = True

    with soon(), pytest.raises(OutboundTimeout):
        Caller(names, server, "https").send("POST", body=b"x" * 50_000_000, timeout_seconds=SECONDS)


@pytest.mark.parametrize("piece", [b"", b"\x16"], ids=["silence", "drops"])
def test_a_handshake_without_end_is_not_waited_for(names: Names, server: Server, piece: bytes) -> None:
    server.script.silent, server.script.act = True, again(piece, b"\x16\x03\x03\x3f\xff", 0.05)

    with soon(), pytest.raises(OutboundTimeout):
        Caller(names, server, "https").get(timeout_seconds=SECONDS)


def test_a_lookup_without_end_is_not_waited_for() -> None:
    def resolve(_: str) -> list[Any]:
        time.sleep(3)
        raise OSError

    with soon(), pytest.raises(OutboundTimeout):
        OutboundClient(resolve=resolve).send("GET", "http://example.com/", timeout_seconds=SECONDS, max_bytes=1)


def test_a_name_that_there_is_not_is_told(names: Names) -> None:
    with pytest.raises(Unreachable, match="not known"):
        OutboundClient(resolve=names).send("GET", "http://example.com/", timeout_seconds=SECONDS, max_bytes=1)


def test_a_server_that_is_not_there_is_told_without_its_address(names: Names) -> None:
    with serve(Script(say(OK))) as server:
        caller = Caller(names, server)

    with pytest.raises(Unreachable, match="takes no connections") as raised:
        caller.get()

    assert "127.0.0.1" not in raised.value.detail


def test_redirects_share_the_time(caller: Caller, server: Server) -> None:
    def act(connection: Any) -> None:
        time.sleep(0.25)
        moved("/")(connection)

    server.script.act = act

    with soon(), pytest.raises(OutboundTimeout):
        caller.get(max_redirects=100, timeout_seconds=SECONDS)


def test_a_body_may_go_elsewhere_as_it_comes(caller: Caller, server: Server) -> None:
    server.script.act = say(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)
    received = bytearray()

    answer = caller.get(sink=received.extend)

    assert (answer.status, answer.body, received) == (200, b"", b"x" * 1000)


@pytest.mark.parametrize("error", [KeyError, OSError, requests.ConnectionError, ResponseTooLarge])
def test_what_goes_wrong_there_ends_the_exchange_and_keeps_its_name(
    caller: Caller, server: Server, error: type[Exception]
) -> None:
    def fail(_: bytes) -> None:
        raise error

    server.script.act = again(b"x", HEAD + b"\r\n", 0.05)

    with soon(), pytest.raises(error) as raised:
        caller.get(sink=fail)

    assert raised.type is error
