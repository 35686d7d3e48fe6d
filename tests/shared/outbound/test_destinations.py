"""The outbound client connects to the addresses that it checked, and to no others."""

import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from shared.errors import ForbiddenUrl, Unreachable
from shared.net.outbound import OutboundClient
from tests.shared.outbound.conftest import Caller, Names
from tests.shared.outbound.servers import OK, Script, Server, send, serve


def test_dns_rebinding_has_no_effect(names: Names) -> None:
    """A second lookup would get another answer."""
    with serve(Script(send(OK))) as first, serve(Script(send(OK)), "127.0.0.2", first.port) as second:
        caller = Caller(names, first)
        names.resolve_to("hooks.example.com", "127.0.0.1", "127.0.0.2")

        caller.get()

        assert names.lookups == ["hooks.example.com"]
        assert [request.address for request in first.requests] == ["127.0.0.1"]
        assert second.connections == 0


@pytest.fixture
def attempts() -> Iterator[list[object]]:
    """Records lookups and connections of this process, and refuses the connections."""
    attempts: list[object] = []
    is_watching = True

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if is_watching and event == "socket.connect":
            attempts.append(args[1][:2])
            raise ConnectionRefusedError
        if is_watching and event == "socket.getaddrinfo":
            attempts.append(args[0])

    sys.addaudithook(watch)
    yield attempts
    is_watching = False


def test_the_connection_is_made_to_the_address_that_was_checked(names: Names, attempts: list[object]) -> None:
    names.resolve_to("hooks.example.com", "1.1.1.1", "127.0.0.1")

    with pytest.raises(Unreachable):
        OutboundClient(resolve=names).send("GET", "https://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    assert set(attempts) == {"1.1.1.1", ("1.1.1.1", 443)}


def test_a_name_with_a_forbidden_address_is_never_connected_to(names: Names, attempts: list[object]) -> None:
    names.resolve_to("hooks.example.com", "1.1.1.1 127.0.0.1")

    with pytest.raises(ForbiddenUrl):
        OutboundClient(resolve=names).send("GET", "https://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    assert attempts == []


def test_only_the_first_addresses_are_tried(names: Names, server: Server, attempts: list[object]) -> None:
    names.resolve_to("hooks.example.com", " ".join(f"1.1.1.{number}" for number in range(100)))

    with pytest.raises(Unreachable):
        OutboundClient(resolve=names).send("GET", "http://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    assert len(set(attempts)) == 8


def test_address_families_alternate(names: Names, attempts: list[object]) -> None:
    names.resolve_to("hooks.example.com", " ".join(f"2606::{number}" for number in range(8)) + " 1.1.1.1 1.1.1.2")

    with pytest.raises(Unreachable):
        OutboundClient(resolve=names).send("GET", "http://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    addresses = [entry for entry in attempts if isinstance(entry, str)]
    assert addresses == ["2606::", "1.1.1.1", "2606::1", "1.1.1.2"]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_an_ipv6_address_keeps_its_brackets() -> None:
    with serve(Script(send(OK)), "::1") as server:
        origin = f"http://[::1]:{server.port}"

        OutboundClient([origin]).send("GET", f"{origin}/", timeout_seconds=5, max_bytes=10)

        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


def test_an_address_that_refuses_connections_is_skipped(names: Names, caller: Caller) -> None:
    names.resolve_to("hooks.example.com", "127.0.0.9 127.0.0.1")

    assert caller.get().status == 200
