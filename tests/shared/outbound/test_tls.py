"""TLS through the outbound client: the name decides, whatever address it leads to."""

from collections.abc import Callable

import pytest

from shared.errors import Unreachable
from shared.net.outbound import OutboundClient
from tests.shared.outbound.conftest import Caller, Names
from tests.shared.outbound.servers import Server


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

    assert OutboundClient([origin]).send("GET", origin, timeout_seconds=5, max_bytes=10).body == b"ok"
    assert server.requests[0].sni is None
