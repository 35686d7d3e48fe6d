"""Redirects through the outbound client: each step is checked as the first was."""

from collections.abc import Callable

import pytest

from shared.errors import ForbiddenUrl
from shared.net.outbound import OutboundClient
from tests.shared.outbound.conftest import Caller, Names
from tests.shared.outbound.servers import OK, Script, Server, moved, say, serve


def test_a_redirect_is_an_answer_where_none_was_asked_for(caller: Caller, server: Server) -> None:
    server.script.act = moved("/elsewhere")

    assert caller.get().status == 302
    assert len(server.requests) == 1


@pytest.mark.parametrize("location", ["/b?c", "b?c", "//hooks.example.com:{port}/b?c", "{origin}/b?c#d"])
def test_redirects_are_followed_as_often_as_asked_for(caller: Caller, server: Server, location: str) -> None:
    steps = iter([moved(location.format(port=server.port, origin=caller.origin)), say(OK)])
    server.script.act = lambda connection: next(steps)(connection)

    answer = caller.get("/a", max_redirects=1, headers={"X-Own": "1"})

    assert answer.body == b"ok"
    assert [request.line for request in server.requests] == ["GET /a HTTP/1.1", "GET /b?c HTTP/1.1"]
    assert server.requests[1].headers["x-own"] == "1"


def test_a_circle_ends(caller: Caller, server: Server) -> None:
    server.script.act = moved("/")

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
def test_each_address_on_the_way_is_checked(names: Names, caller: Caller, server: Server, location: str) -> None:
    names.lead("inside.example.com", "127.0.0.1")
    server.script.act = moved(location)

    with pytest.raises(ForbiddenUrl):
        caller.get(max_redirects=2)

    assert len(server.requests) == 1


@pytest.mark.usefixtures("trusted")
def test_no_redirect_leaves_tls(names: Names, server: Server, secure: Callable[..., Server]) -> None:
    origin = f"http://hooks.example.com:{server.port}"
    first = secure("hooks.example.com", act=moved(origin))
    names.lead("hooks.example.com", "127.0.0.1")
    client = OutboundClient([origin, f"https://hooks.example.com:{first.port}"], resolve=names)

    with pytest.raises(ForbiddenUrl, match="from https to http"):
        client.send("GET", f"https://hooks.example.com:{first.port}/", timeout_seconds=5, max_bytes=10, max_redirects=2)

    assert server.connections == 0


def test_headers_stay_with_the_origin_that_they_were_meant_for(names: Names, caller: Caller, server: Server) -> None:
    with serve(Script(say(OK))) as other:
        elsewhere = f"http://other.example.com:{other.port}"
        names.lead("other.example.com", "127.0.0.1")
        server.script.act = moved(elsewhere)
        client = OutboundClient([caller.origin, elsewhere], resolve=names)

        headers = {"Authorization": "5ecret"}
        client.send("GET", caller.origin, headers=headers, timeout_seconds=5, max_bytes=10, max_redirects=1)

        assert server.requests[0].headers["authorization"] == "5ecret"
        assert "authorization" not in other.requests[0].headers


def test_only_what_asks_is_sent_again_elsewhere(caller: Caller, server: Server) -> None:
    with pytest.raises(ValueError, match="only GET"):
        caller.send("POST", max_redirects=1)

    assert server.connections == 0
