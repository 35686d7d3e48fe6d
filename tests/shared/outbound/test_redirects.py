"""Redirects of the outbound client: every target is checked like the first URL."""

from collections.abc import Callable

import pytest

from shared.errors import ForbiddenUrl
from shared.net.outbound import OutboundClient
from tests.shared.outbound.conftest import Caller, Names
from tests.shared.outbound.servers import OK, Script, Server, redirect, send, serve


def test_redirects_are_not_followed_by_default(caller: Caller, server: Server) -> None:
    server.script.act = redirect("/elsewhere")

    assert caller.get().status == 302
    assert len(server.requests) == 1


@pytest.mark.parametrize("location", ["/b?c", "b?c", "//hooks.example.com:{port}/b?c", "{origin}/b?c#d"])
def test_redirects_are_followed_up_to_the_maximum(caller: Caller, server: Server, location: str) -> None:
    steps = iter([redirect(location.format(port=server.port, origin=caller.origin)), send(OK)])
    server.script.act = lambda connection: next(steps)(connection)

    answer = caller.get("/a", max_redirects=1, headers={"X-Own": "1"})

    assert answer.body == b"ok"
    assert [request.line for request in server.requests] == ["GET /a HTTP/1.1", "GET /b?c HTTP/1.1"]
    assert server.requests[1].headers["x-own"] == "1"


def test_a_redirect_loop_ends(caller: Caller, server: Server) -> None:
    server.script.act = redirect("/")

    assert caller.get(max_redirects=3).status == 302
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
def test_the_target_of_a_redirect_is_checked(names: Names, caller: Caller, server: Server, location: str) -> None:
    names.resolve_to("inside.example.com", "127.0.0.1")
    server.script.act = redirect(location)

    with pytest.raises(ForbiddenUrl):
        caller.get(max_redirects=2)

    assert len(server.requests) == 1


@pytest.mark.usefixtures("trusted")
def test_redirects_from_https_to_http_are_refused(
    names: Names, server: Server, tls_server: Callable[..., Server]
) -> None:
    origin = f"http://hooks.example.com:{server.port}"
    first = tls_server("hooks.example.com", act=redirect(origin))
    names.resolve_to("hooks.example.com", "127.0.0.1")
    client = OutboundClient([origin, f"https://hooks.example.com:{first.port}"], resolve=names)

    with pytest.raises(ForbiddenUrl, match="from https to http"):
        client.send("GET", f"https://hooks.example.com:{first.port}/", timeout_seconds=5, max_bytes=10, max_redirects=2)

    assert server.connections == 0


def test_headers_are_not_sent_to_another_origin(names: Names, caller: Caller, server: Server) -> None:
    with serve(Script(send(OK))) as other:
        elsewhere = f"http://other.example.com:{other.port}"
        names.resolve_to("other.example.com", "127.0.0.1")
        server.script.act = redirect(elsewhere)
        client = OutboundClient([caller.origin, elsewhere], resolve=names)

        headers = {"Authorization": "5ecret"}
        client.send("GET", caller.origin, headers=headers, timeout_seconds=5, max_bytes=10, max_redirects=1)

        assert server.requests[0].headers["authorization"] == "5ecret"
        assert "authorization" not in other.requests[0].headers


def test_only_get_requests_may_follow_redirects(caller: Caller, server: Server) -> None:
    with pytest.raises(ValueError, match="only GET"):
        caller.send("POST", max_redirects=1)

    assert server.connections == 0
