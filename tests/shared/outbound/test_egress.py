"""Requests through a proxy: what goes to it, what does not, and what it is told."""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.errors import ConnectionFailed, ForbiddenUrl, OutboundTimeout
from shared.net.egress_proxy import EgressProxy
from shared.net.outbound import HttpResponse, OutboundClient
from tests.shared.outbound.conftest import Names
from tests.shared.outbound.proxies import ConnectProxy, proxying
from tests.shared.outbound.servers import Script, Server, again, moved, serve


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with proxying() as proxy:
        yield proxy


def send(proxy: str, url: str, names: Names | None = None, allow: str = "", **told: Any) -> HttpResponse:
    client = OutboundClient([allow] if allow else [], proxy=EgressProxy.parse(proxy), resolve=names or Names())
    told = {"timeout_seconds": 5, "max_bytes": 1000, **told}
    return client.send(told.pop("method", "GET"), url, **told)


def test_a_plain_request_goes_through_and_its_name_is_looked_up_there_alone(
    proxy: ConnectProxy, server: Server, names: Names
) -> None:
    proxy.ports["hooks.example.com:80"] = server.port

    answer = send(proxy.url, "http://hooks.example.com/hook?a=b", names, method="POST", body=b"{}")

    assert (answer.status, answer.body) == (200, b"ok")
    assert proxy.heads == ["CONNECT hooks.example.com:80 HTTP/1.1\r\nHost: hooks.example.com:80\r\n"]
    (request,) = server.requests
    assert (request.line, request.headers["host"]) == ("POST /hook?a=b HTTP/1.1", "hooks.example.com")
    assert names.asked == []


@pytest.mark.usefixtures("trusted")
def test_tls_is_with_the_server_and_not_with_the_proxy(proxy: ConnectProxy, secure: Callable[..., Server]) -> None:
    server = secure("hooks.example.com")
    proxy.ports |= {"hooks.example.com:443": server.port, "other.example.com:443": server.port}

    assert send(proxy.url, "https://hooks.example.com/s3cret").status == 200

    assert server.requests[0].sni == "hooks.example.com"
    assert "s3cret" not in "".join(proxy.heads)
    with pytest.raises(ConnectionFailed, match="certificate"):
        send(proxy.url, "https://other.example.com/")


def test_the_proxys_login_goes_to_the_proxy_alone_and_is_not_shown(proxy: ConnectProxy, server: Server) -> None:
    proxy.ports["hooks.example.com:80"] = server.port
    url = proxy.url.replace("//", "//me:p%40ss%3A5ecret@")

    send(url, "http://hooks.example.com/")

    login = base64.b64encode(b"me:p@ss:5ecret").decode()
    assert f"Proxy-Authorization: Basic {login}\r\n" in proxy.heads[0]
    assert "proxy-authorization" not in server.requests[0].headers
    assert login not in repr(EgressProxy.parse(url))


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1/", "http://127.0.0.1/", "http://169.254.169.254/latest", "http://[::1]/", "http://n8n/",
     "http://metadata.google.internal/", "http://localhost/", "https://hooks.example.com:6379/", "http://[::ffff:7f00:1]/"],
)  # fmt: skip
def test_what_is_private_or_at_another_port_does_not_get_as_far_as_the_proxy(proxy: ConnectProxy, url: str) -> None:
    with pytest.raises(ForbiddenUrl):
        send(proxy.url, url)

    assert proxy.heads == []


def test_a_redirect_inside_is_not_followed_through_the_proxy(proxy: ConnectProxy) -> None:
    with serve(Script(moved("http://10.0.0.1/"))) as server:
        proxy.ports["hooks.example.com:80"] = server.port
        with pytest.raises(ForbiddenUrl):
            send(proxy.url, "http://hooks.example.com/", max_redirects=3)

    assert proxy.asked == ["CONNECT hooks.example.com:80"]


def test_a_receiver_of_the_operators_own_network_is_asked_directly(
    proxy: ConnectProxy, server: Server, names: Names
) -> None:
    names.lead("n8n", "127.0.0.1")
    for origin in (f"http://n8n:{server.port}", f"http://127.0.0.1:{server.port}"):
        assert send(proxy.url, f"{origin}/hook", names, origin).status == 200

    assert proxy.heads == []


@pytest.mark.parametrize("known", ["1.1.1.1", ""], ids=["known here", "known there alone"])
def test_a_public_receiver_goes_through_although_the_operator_vouches_for_it(
    proxy: ConnectProxy, server: Server, names: Names, known: str
) -> None:
    origin = "http://n8n.example.com:80"
    if known:
        names.lead("n8n.example.com", known)
    proxy.ports["n8n.example.com:80"] = server.port

    assert send(proxy.url, f"{origin}/hook", names, origin).status == 200


def test_what_the_operator_vouches_for_by_mistake_is_not_connected_to(proxy: ConnectProxy, names: Names) -> None:
    names.lead("meta.example.com", "169.254.169.254")
    with pytest.raises(ForbiddenUrl):
        send(proxy.url, "http://meta.example.com/", names, "http://meta.example.com:80")

    assert proxy.heads == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "does not connect to it .HTTP 403."),
        (b"HTTP/1.0 407 Proxy Authentication Required\r\n\r\n", "does not connect to it .HTTP 407."),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://10.0.0.1/\r\n\r\n", "does not connect to it .HTTP 301."),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "no answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000, "no answer in HTTP|ends the connection"),
        (b"", "no answer in HTTP"),
    ],
    ids=["403", "407", "301", "ssh", "half", "endless", "nothing"],
)
def test_a_proxy_that_does_not_connect_is_told_as_such(proxy: ConnectProxy, answer: bytes, told: str) -> None:
    proxy.refusal = answer
    with pytest.raises(ConnectionFailed, match=f"The egress proxy .*({told})"):
        send(proxy.url, "http://hooks.example.com/")


def test_a_proxy_that_is_away_or_hangs_costs_no_more_time_than_there_is() -> None:
    with proxying() as gone:
        pass
    with pytest.raises(ConnectionFailed, match="The egress proxy takes no connections"):
        send(gone.url, "http://hooks.example.com/")
    for act in (lambda _: time.sleep(3), again(b"a", seconds=0.1)):
        with serve(Script(act)) as hanging:
            begin = time.monotonic()
            with pytest.raises(OutboundTimeout):
                send(f"http://127.0.0.1:{hanging.port}", "http://hooks.example.com/", timeout_seconds=0.5)
            assert time.monotonic() - begin < 2


def test_a_proxy_is_found_by_its_name(proxy: ConnectProxy, server: Server, names: Names) -> None:
    names.lead("proxy", "127.0.0.1")
    proxy.ports["hooks.example.com:80"] = server.port

    send(proxy.url.replace("127.0.0.1", "proxy"), "http://hooks.example.com/", names)

    assert names.asked == ["proxy"]


def test_the_server_may_speak_as_soon_as_it_is_connected(proxy: ConnectProxy, names: Names) -> None:
    """What follows the proxy's answer in one piece is the server's."""
    proxy.refusal = b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 204 No Content\r\nX-From: server\r\n\r\n"

    answer = send(proxy.url, "http://hooks.example.com/")

    assert (answer.status, answer.headers["x-from"]) == (204, "server")
