"""Requests through the guard to real servers: where they go, what they say, and when they end."""

import contextlib
import logging
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import trustme

from shared import logs
from shared.errors import ForbiddenUrl, TooLarge, TooSlow, Unreachable
from shared.urls import Answer, Guard
from tests.outbound.conftest import Names
from tests.outbound.servers import OK, Act, Script, Server, again, moved, say, serve

fine = say(OK)
#: As long as any of these may take.
SECONDS = 0.4


class Caller:
    """Asks for `http://hooks.example.com`, which leads to this machine and for which somebody vouched."""

    def __init__(self, names: Names, server: Server, scheme: str = "http") -> None:
        self.origin = f"{scheme}://hooks.example.com:{server.port}"
        self.guard = Guard([self.origin], resolve=names)
        names.lead("hooks.example.com", "127.0.0.1")

    def get(self, target: str = "/", **told: Any) -> Answer:
        return self.send("GET", target, **told)

    def send(self, method: str, target: str = "/", **told: Any) -> Answer:
        told = {"timeout_seconds": 5, "max_bytes": 1000, **told}
        return self.guard.send(method, self.origin + target, **told)


@pytest.fixture
def caller(names: Names, server: Server) -> Caller:
    return Caller(names, server)


@contextlib.contextmanager
def soon() -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < SECONDS + 1


def test_the_server_hears_the_name_and_what_was_to_be_said(caller: Caller, server: Server) -> None:
    answer = caller.send("POST", "/hook?a=%2F", headers={"X-Own": "1"}, body=b"{}")

    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "2", b"ok")
    (request,) = server.requests
    assert request.line == "POST /hook?a=%2F HTTP/1.1"
    assert request.headers == {
        "host": f"hooks.example.com:{server.port}",
        "user-agent": "imagegen",
        "accept-encoding": "identity",
        "connection": "close",
        "content-length": "2",
        "x-own": "1",
    }
    assert request.body == b"{}"


def test_nothing_of_the_environment_comes_along(
    caller: Caller, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    with serve(Script(say(OK))) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        (tmp_path / ".netrc").write_text("machine hooks.example.com login me password 5ecret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        monkeypatch.setenv("HOME", str(tmp_path))

        caller.get()

        assert proxy.connections == 0
    assert "authorization" not in server.requests[0].headers


def test_cookies_are_not_kept(caller: Caller, server: Server) -> None:
    server.script.act = say(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")

    caller.get()
    caller.get()

    assert [request.headers.get("cookie") for request in server.requests] == [None, None]


# Where it goes


def test_a_name_that_changes_its_mind_is_taken_by_its_word(names: Names) -> None:
    """The stand-in for DNS rebinding: whatever is asked a second time gets another answer."""
    with serve(Script(say(OK))) as good, serve(Script(say(OK)), "127.0.0.2", good.port) as bad:
        caller = Caller(names, good)
        names.lead("hooks.example.com", "127.0.0.1", "127.0.0.2")

        caller.get()

        assert names.asked == ["hooks.example.com"]
        assert [request.to for request in good.requests] == ["127.0.0.1"]
        assert bad.connections == 0


@pytest.fixture
def dialled() -> Iterator[list[object]]:
    """Where anybody tries to connect to or what is looked up; nobody gets through."""
    seen: list[object] = []
    watching = True

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if watching and event == "socket.connect":
            seen.append(args[1][:2])
            raise ConnectionRefusedError
        if watching and event == "socket.getaddrinfo":
            seen.append(args[0])

    sys.addaudithook(watch)
    yield seen
    watching = False


def test_the_connection_is_made_to_the_address_that_was_checked(names: Names, dialled: list[object]) -> None:
    names.lead("hooks.example.com", "1.1.1.1", "127.0.0.1")

    with pytest.raises(Unreachable):
        Guard(resolve=names).send("GET", "https://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    assert set(dialled) == {"1.1.1.1", ("1.1.1.1", 443)}


def test_a_name_with_a_bad_address_is_not_dialled_at_all(names: Names, dialled: list[object]) -> None:
    names.lead("hooks.example.com", "1.1.1.1 127.0.0.1")

    with pytest.raises(ForbiddenUrl):
        Guard(resolve=names).send("GET", "https://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    assert dialled == []


def test_the_next_address_is_tried_but_not_every_one(names: Names, server: Server, dialled: list[object]) -> None:
    names.lead("hooks.example.com", " ".join(f"1.1.1.{number}" for number in range(100)))

    with pytest.raises(Unreachable):
        Guard(resolve=names).send("GET", "http://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    assert len(set(dialled)) == 8


def test_each_family_of_addresses_gets_its_turn(names: Names, dialled: list[object]) -> None:
    names.lead("hooks.example.com", " ".join(f"2606::{number}" for number in range(8)) + " 1.1.1.1 1.1.1.2")

    with pytest.raises(Unreachable):
        Guard(resolve=names).send("GET", "http://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    addresses = [entry for entry in dialled if isinstance(entry, str)]
    assert addresses == ["2606::", "1.1.1.1", "2606::1", "1.1.1.2"]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_an_ipv6_address_keeps_its_brackets() -> None:
    with serve(Script(say(OK)), "::1") as server:
        origin = f"http://[::1]:{server.port}"

        Guard([origin]).send("GET", f"{origin}/", timeout_seconds=5, max_bytes=10)

        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


def test_an_address_that_takes_no_connections_is_passed_over(names: Names, caller: Caller) -> None:
    names.lead("hooks.example.com", "127.0.0.9 127.0.0.1")

    assert caller.get().status == 200


def test_what_is_found_is_logged_for_the_operator_and_told_to_nobody(
    names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    names.lead("hooks.example.com", "10.9.8.7")

    with caplog.at_level(logging.WARNING), pytest.raises(ForbiddenUrl) as raised:
        Guard(resolve=names).send("GET", "http://hooks.example.com/s3cret", timeout_seconds=5, max_bytes=1)

    assert "10.9.8.7" in caplog.text
    assert "10.9.8.7" not in str(raised.value)
    assert "s3cret" not in caplog.text


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What a process of ours logs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure("text")
    yield lambda: capsys.readouterr().err
    root.handlers, root.level = handlers, level


def test_no_address_is_logged_whole(caller: Caller, server: Server, log: Callable[[], str]) -> None:
    server.script.act = say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nno header\r\n\r\nok")

    caller.get("/webhook-waiting/5ecret")
    logging.getLogger("shared.urls").warning("this is logged")

    seen = log()
    assert "this is logged" in seen
    assert "5ecret" not in seen


# TLS


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def start(*names: str, act: Act = fine) -> Server:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(*names).configure_cert(context)
            return stack.enter_context(serve(Script(act, tls=context)))

        yield start


@pytest.mark.usefixtures("trusted")
def test_tls_is_spoken_with_the_name(names: Names, secure: Callable[..., Server]) -> None:
    server = secure("hooks.example.com")

    answer = Caller(names, server, "https").get()

    assert answer.body == b"ok"
    (request,) = server.requests
    assert request.sni == "hooks.example.com"
    assert request.headers["host"] == f"hooks.example.com:{server.port}"


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("name", ["other.example.com", "127.0.0.1", "*.com"])
def test_a_certificate_for_another_name_is_none(names: Names, secure: Callable[..., Server], name: str) -> None:
    server = secure(name)

    with pytest.raises(Unreachable, match="certificate"):
        Caller(names, server, "https").get()

    assert server.requests == []


def test_a_certificate_that_nobody_vouches_for_is_none(names: Names, secure: Callable[..., Server]) -> None:
    server = secure("hooks.example.com")

    with pytest.raises(Unreachable, match="certificate"):
        Caller(names, server, "https").get()

    assert server.requests == []


@pytest.mark.usefixtures("trusted")
def test_an_address_has_a_certificate_of_its_own(names: Names, secure: Callable[..., Server]) -> None:
    server = secure("127.0.0.1")
    origin = f"https://127.0.0.1:{server.port}"

    assert Guard([origin]).send("GET", origin, timeout_seconds=5, max_bytes=10).body == b"ok"
    assert server.requests[0].sni is None


# Redirects


def test_a_redirect_is_an_answer_where_none_was_asked_for(caller: Caller, server: Server) -> None:
    server.script.act = moved("/elsewhere")

    assert caller.get().status == 302
    assert len(server.requests) == 1


@pytest.mark.parametrize("location", ["/b?c", "b?c", "//hooks.example.com:{port}/b?c", "{origin}/b?c#d"])
def test_redirects_are_followed_as_often_as_asked_for(caller: Caller, server: Server, location: str) -> None:
    steps = iter([moved(location.format(port=server.port, origin=caller.origin)), say(OK)])
    server.script.act = lambda connection: next(steps)(connection)

    answer = caller.get("/a", redirects=1, headers={"X-Own": "1"})

    assert answer.body == b"ok"
    assert [request.line for request in server.requests] == ["GET /a HTTP/1.1", "GET /b?c HTTP/1.1"]
    assert server.requests[1].headers["x-own"] == "1"


def test_a_circle_ends(caller: Caller, server: Server) -> None:
    server.script.act = moved("/")

    assert caller.get(redirects=3).status == 302
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:6379/",
        "http://169.254.169.254/",
        "//[::1]/",
        "http://n8n/",
        "file:///etc/passwd",
        "http://user@example.com/",
        "\\\\127.0.0.1",
        "http://[",
        "javascript:alert(1)",
        "http://inside.example.com/",
    ],
)
def test_each_address_on_the_way_is_checked(names: Names, caller: Caller, server: Server, location: str) -> None:
    names.lead("inside.example.com", "127.0.0.1")
    server.script.act = moved(location)

    with pytest.raises(ForbiddenUrl):
        caller.get(redirects=2)

    assert len(server.requests) == 1


@pytest.mark.usefixtures("trusted")
def test_no_redirect_leaves_tls(names: Names, server: Server, secure: Callable[..., Server]) -> None:
    origin = f"http://hooks.example.com:{server.port}"
    first = secure("hooks.example.com", act=moved(origin))
    names.lead("hooks.example.com", "127.0.0.1")
    guard = Guard([origin, f"https://hooks.example.com:{first.port}"], resolve=names)

    with pytest.raises(ForbiddenUrl, match="from https to http"):
        guard.send("GET", f"https://hooks.example.com:{first.port}/", timeout_seconds=5, max_bytes=10, redirects=2)

    assert server.connections == 0


def test_headers_stay_with_the_origin_that_they_were_meant_for(names: Names, caller: Caller, server: Server) -> None:
    with serve(Script(say(OK))) as other:
        elsewhere = f"http://other.example.com:{other.port}"
        names.lead("other.example.com", "127.0.0.1")
        server.script.act = moved(elsewhere)
        guard = Guard([caller.origin, elsewhere], resolve=names)

        headers = {"Authorization": "5ecret"}
        guard.send("GET", caller.origin, headers=headers, timeout_seconds=5, max_bytes=10, redirects=1)

        assert server.requests[0].headers["authorization"] == "5ecret"
        assert "authorization" not in other.requests[0].headers


def test_only_what_asks_is_sent_again_elsewhere(caller: Caller, server: Server) -> None:
    with pytest.raises(ValueError, match="only GET"):
        caller.send("POST", redirects=1)

    assert server.connections == 0


# When it ends

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


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

    with soon(), pytest.raises(TooSlow):
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

    with soon(), pytest.raises(TooLarge):
        caller.get(timeout_seconds=5)


def test_a_body_that_says_that_it_is_too_large_is_not_waited_for(caller: Caller, server: Server) -> None:
    server.script.act = again(b"", HEAD + b"Content-Length: 1001\r\n\r\n", 0.1)

    with soon(), pytest.raises(TooLarge) as raised:
        caller.get(timeout_seconds=5)

    assert raised.value.status == 200


def test_what_fits_exactly_is_taken(caller: Caller, server: Server) -> None:
    server.script.act = say(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)

    assert len(caller.get().body) == 1000


def test_the_status_is_known_though_the_body_is_not(caller: Caller, server: Server) -> None:
    server.script.act = again(b"x", b"HTTP/1.1 410 Gone\r\n\r\n", 0.05)

    with pytest.raises(TooSlow) as raised:
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

    with soon(), pytest.raises(TooSlow):
        caller.send("POST", body=b"x" * 50_000_000, timeout_seconds=SECONDS)


@pytest.mark.usefixtures("trusted")
def test_a_server_that_does_not_read_is_not_waited_for_in_tls_either(
    names: Names, secure: Callable[..., Server]
) -> None:
    server = secure("hooks.example.com", act=lambda _: time.sleep(5))
    server.script.silent = True

    with soon(), pytest.raises(TooSlow):
        Caller(names, server, "https").send("POST", body=b"x" * 50_000_000, timeout_seconds=SECONDS)


@pytest.mark.parametrize("piece", [b"", b"\x16"], ids=["silence", "drops"])
def test_a_handshake_without_end_is_not_waited_for(names: Names, server: Server, piece: bytes) -> None:
    server.script.silent, server.script.act = True, again(piece, b"\x16\x03\x03\x3f\xff", 0.05)

    with soon(), pytest.raises(TooSlow):
        Caller(names, server, "https").get(timeout_seconds=SECONDS)


def test_a_lookup_without_end_is_not_waited_for() -> None:
    def resolve(_: str) -> list[Any]:
        time.sleep(3)
        raise OSError

    with soon(), pytest.raises(TooSlow):
        Guard(resolve=resolve).send("GET", "http://example.com/", timeout_seconds=SECONDS, max_bytes=1)


def test_a_name_that_there_is_not_is_told(names: Names) -> None:
    with pytest.raises(Unreachable, match="not known"):
        Guard(resolve=names).send("GET", "http://example.com/", timeout_seconds=SECONDS, max_bytes=1)


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

    with soon(), pytest.raises(TooSlow):
        caller.get(redirects=100, timeout_seconds=SECONDS)


def test_a_body_may_go_elsewhere_as_it_comes(caller: Caller, server: Server) -> None:
    server.script.act = say(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)
    received = bytearray()

    answer = caller.get(sink=received.extend)

    assert (answer.status, answer.body, received) == (200, b"", b"x" * 1000)


@pytest.mark.parametrize("error", [KeyError, OSError, requests.ConnectionError, TooLarge])
def test_what_goes_wrong_there_ends_the_exchange_and_keeps_its_name(
    caller: Caller, server: Server, error: type[Exception]
) -> None:
    def fail(_: bytes) -> None:
        raise error

    server.script.act = again(b"x", HEAD + b"\r\n", 0.05)

    with soon(), pytest.raises(error) as raised:
        caller.get(sink=fail)

    assert raised.type is error
