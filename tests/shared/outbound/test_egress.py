"""Requests through the egress proxy."""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.errors import ConnectionFailed, ForbiddenUrl, OutboundTimeout
from shared.net.egress_proxy import EgressProxy
from shared.net.outbound import HttpResponse, OutboundClient
from tests.shared.outbound.conftest import Names
from tests.shared.outbound.proxies import ConnectProxy, connect_proxy
from tests.shared.outbound.servers import Script, Server, hang, redirect, repeat, serve


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with connect_proxy() as proxy:
        yield proxy


def call(proxy: str, url: str, names: Names | None = None, allow: str = "", **options: Any) -> HttpResponse:
    client = OutboundClient([allow] if allow else [], proxy=EgressProxy.parse(proxy), resolve=names or Names())
    options = {"timeout_seconds": 5, "max_bytes": 1000, **options}
    return client.send(options.pop("method", "GET"), url, **options)


def test_requests_go_through_the_proxy_which_resolves_the_name(
    proxy: ConnectProxy, server: Server, names: Names
) -> None:
    proxy.ports["hooks.example.com:80"] = server.port

    answer = call(proxy.url, "http://hooks.example.com/hook?a=b", names, method="POST", body=b"{}")

    assert (answer.status, answer.body) == (200, b"ok")
    assert proxy.heads == ["CONNECT hooks.example.com:80 HTTP/1.1\r\nHost: hooks.example.com:80\r\n"]
    (request,) = server.requests
    assert (request.line, request.headers["host"]) == ("POST /hook?a=b HTTP/1.1", "hooks.example.com")
    assert names.lookups == []


@pytest.mark.usefixtures("trusted")
def test_tls_ends_at_the_server_not_at_the_proxy(proxy: ConnectProxy, tls_server: Callable[..., Server]) -> None:
    server = tls_server("hooks.example.com")
    proxy.ports |= {"hooks.example.com:443": server.port, "other.example.com:443": server.port}

    assert call(proxy.url, "https://hooks.example.com/s3cret").status == 200

    assert server.requests[0].sni == "hooks.example.com"
    assert "s3cret" not in "".join(proxy.heads)
    with pytest.raises(ConnectionFailed, match="certificate"):
        call(proxy.url, "https://other.example.com/")


def test_the_login_of_the_proxy_is_sent_to_the_proxy_only_and_never_shown(proxy: ConnectProxy, server: Server) -> None:
    proxy.ports["hooks.example.com:80"] = server.port
    url = proxy.url.replace("//", "//me:p%40ss%3A5ecret@")

    call(url, "http://hooks.example.com/")

    login = base64.b64encode(b"me:p@ss:5ecret").decode()
    assert f"Proxy-Authorization: Basic {login}\r\n" in proxy.heads[0]
    assert "proxy-authorization" not in server.requests[0].headers
    assert login not in repr(EgressProxy.parse(url))


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1/", "http://127.0.0.1/", "http://169.254.169.254/latest", "http://[::1]/", "http://n8n/",
     "http://metadata.google.internal/", "http://localhost/", "https://hooks.example.com:6379/", "http://[::ffff:7f00:1]/"],
)  # fmt: skip
def test_private_hosts_and_other_ports_are_refused_before_the_proxy(proxy: ConnectProxy, url: str) -> None:
    with pytest.raises(ForbiddenUrl):
        call(proxy.url, url)

    assert proxy.heads == []


def test_a_redirect_to_a_private_address_is_not_followed_through_the_proxy(proxy: ConnectProxy) -> None:
    with serve(Script(redirect("http://10.0.0.1/"))) as server:
        proxy.ports["hooks.example.com:80"] = server.port
        with pytest.raises(ForbiddenUrl):
            call(proxy.url, "http://hooks.example.com/", max_redirects=3)

    assert proxy.requests == ["CONNECT hooks.example.com:80"]


def test_allowlisted_private_receivers_are_reached_directly(proxy: ConnectProxy, server: Server, names: Names) -> None:
    names.resolve_to("n8n", "127.0.0.1")
    for origin in (f"http://n8n:{server.port}", f"http://127.0.0.1:{server.port}"):
        assert call(proxy.url, f"{origin}/hook", names, origin).status == 200

    assert proxy.heads == []


@pytest.mark.parametrize("address", ["1.1.1.1", ""], ids=["resolvable", "resolvable by the proxy only"])
def test_allowlisted_public_receivers_are_reached_through_the_proxy(
    proxy: ConnectProxy, server: Server, names: Names, address: str
) -> None:
    origin = "http://n8n.example.com:80"
    if address:
        names.resolve_to("n8n.example.com", address)
    proxy.ports["n8n.example.com:80"] = server.port

    assert call(proxy.url, f"{origin}/hook", names, origin).status == 200


def test_an_allowlisted_name_of_a_metadata_service_is_refused(proxy: ConnectProxy, names: Names) -> None:
    names.resolve_to("meta.example.com", "169.254.169.254")
    with pytest.raises(ForbiddenUrl):
        call(proxy.url, "http://meta.example.com/", names, "http://meta.example.com:80")

    assert proxy.heads == []


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "refused to connect .HTTP 403."),
        (b"HTTP/1.0 407 Proxy Authentication Required\r\n\r\n", "refused to connect .HTTP 407."),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://10.0.0.1/\r\n\r\n", "refused to connect .HTTP 301."),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "invalid HTTP response"),
        (b"HTTP/1.1 200 OK\r\n", "invalid HTTP response"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000, "invalid HTTP response|closed the connection"),
        (b"", "invalid HTTP response"),
    ],
    ids=["403", "407", "301", "ssh", "half", "endless", "nothing"],
)
def test_a_refusal_of_the_proxy_is_reported_as_such(proxy: ConnectProxy, response: bytes, reason: str) -> None:
    proxy.refusal = response
    with pytest.raises(ConnectionFailed, match=f"The egress proxy .*({reason})"):
        call(proxy.url, "http://hooks.example.com/")


def test_a_proxy_that_is_down_or_hangs_does_not_exceed_the_timeout() -> None:
    with connect_proxy() as gone:
        pass
    with pytest.raises(ConnectionFailed, match="The egress proxy refuses connections"):
        call(gone.url, "http://hooks.example.com/")
    for act in (hang, repeat(b"a", pause=0.1)):
        with serve(Script(act)) as hanging:
            begin = time.monotonic()
            with pytest.raises(OutboundTimeout):
                call(f"http://127.0.0.1:{hanging.port}", "http://hooks.example.com/", timeout_seconds=0.5)
            assert time.monotonic() - begin < 30


def test_the_proxy_may_be_a_host_name(proxy: ConnectProxy, server: Server, names: Names) -> None:
    names.resolve_to("proxy", "127.0.0.1")
    proxy.ports["hooks.example.com:80"] = server.port

    call(proxy.url.replace("127.0.0.1", "proxy"), "http://hooks.example.com/", names)

    assert names.lookups == ["proxy"]


def test_bytes_after_the_proxys_response_belong_to_the_server(proxy: ConnectProxy, names: Names) -> None:
    proxy.refusal = b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 204 No Content\r\nX-From: server\r\n\r\n"

    answer = call(proxy.url, "http://hooks.example.com/")

    assert (answer.status, answer.headers["x-from"]) == (204, "server")
