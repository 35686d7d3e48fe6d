"""Requests through the outbound client to real servers: what they say, and what is said of them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shared.errors import ForbiddenUrl
from shared.net.outbound import OutboundClient
from shared.observability import logs
from tests.shared.outbound.conftest import Caller, Names
from tests.shared.outbound.servers import OK, Script, Server, say, serve


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


def test_what_is_found_is_logged_for_the_operator_and_told_to_nobody(
    names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    names.lead("hooks.example.com", "10.9.8.7")

    with caplog.at_level(logging.WARNING), pytest.raises(ForbiddenUrl) as raised:
        OutboundClient(resolve=names).send("GET", "http://hooks.example.com/s3cret", timeout_seconds=5, max_bytes=1)

    assert "10.9.8.7" in caplog.text
    assert "10.9.8.7" not in str(raised.value)
    assert "s3cret" not in caplog.text


@contextmanager
def logging_as_processes_do() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure_logging("text")
    yield
    root.handlers, root.level = handlers, level


def test_no_address_is_logged_whole(caller: Caller, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.script.act = say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nno header\r\n\r\nok")

    # Not in a fixture: what pytest captures while it sets up is closed before the test begins.
    with logging_as_processes_do():
        caller.get("/webhook-waiting/5ecret")
        logging.getLogger("shared.net.outbound").warning("this is logged")

    seen = capsys.readouterr().err
    assert "this is logged" in seen
    assert "5ecret" not in seen
