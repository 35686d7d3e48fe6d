"""TLS of the outbound client: the host name decides, whatever address it has."""

from collections.abc import Callable

import pytest

from shared.errors import Unreachable
from shared.net.outbound import OutboundClient
from tests.shared.outbound.conftest import Caller, Names
from tests.shared.outbound.servers import Server


@pytest.mark.usefixtures("trusted")
def test_tls_uses_the_host_name(names: Names, tls_server: Callable[..., Server]) -> None:
    server = tls_server("hooks.example.com")

    answer = Caller(names, server, "https").get()

    assert answer.body == b"ok"
    (request,) = server.requests
    assert request.sni == "hooks.example.com"
    assert request.headers["host"] == f"hooks.example.com:{server.port}"


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("name", ["other.example.com", "127.0.0.1", "*.com"])
def test_a_certificate_for_another_name_is_refused(names: Names, tls_server: Callable[..., Server], name: str) -> None:
    server = tls_server(name)

    with pytest.raises(Unreachable, match="certificate"):
        Caller(names, server, "https").get()

    assert server.requests == []


def test_a_certificate_of_an_unknown_authority_is_refused(names: Names, tls_server: Callable[..., Server]) -> None:
    server = tls_server("hooks.example.com")

    with pytest.raises(Unreachable, match="certificate"):
        Caller(names, server, "https").get()

    assert server.requests == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_an_ip_address_is_accepted(names: Names, tls_server: Callable[..., Server]) -> None:
    server = tls_server("127.0.0.1")
    origin = f"https://127.0.0.1:{server.port}"

    assert OutboundClient([origin]).send("GET", origin, timeout_seconds=5, max_bytes=10).body == b"ok"
    assert server.requests[0].sni is None
