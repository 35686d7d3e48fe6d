"""Where the outbound client connects to: the addresses that were checked, and no others."""

import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from shared.errors import ForbiddenUrl, Unreachable
from shared.net.outbound import OutboundClient
from tests.shared.outbound.conftest import Caller, Names
from tests.shared.outbound.servers import OK, Script, Server, say, serve


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
        OutboundClient(resolve=names).send("GET", "https://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    assert set(dialled) == {"1.1.1.1", ("1.1.1.1", 443)}


def test_a_name_with_a_bad_address_is_not_dialled_at_all(names: Names, dialled: list[object]) -> None:
    names.lead("hooks.example.com", "1.1.1.1 127.0.0.1")

    with pytest.raises(ForbiddenUrl):
        OutboundClient(resolve=names).send("GET", "https://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    assert dialled == []


def test_the_next_address_is_tried_but_not_every_one(names: Names, server: Server, dialled: list[object]) -> None:
    names.lead("hooks.example.com", " ".join(f"1.1.1.{number}" for number in range(100)))

    with pytest.raises(Unreachable):
        OutboundClient(resolve=names).send("GET", "http://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    assert len(set(dialled)) == 8


def test_each_family_of_addresses_gets_its_turn(names: Names, dialled: list[object]) -> None:
    names.lead("hooks.example.com", " ".join(f"2606::{number}" for number in range(8)) + " 1.1.1.1 1.1.1.2")

    with pytest.raises(Unreachable):
        OutboundClient(resolve=names).send("GET", "http://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    addresses = [entry for entry in dialled if isinstance(entry, str)]
    assert addresses == ["2606::", "1.1.1.1", "2606::1", "1.1.1.2"]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_an_ipv6_address_keeps_its_brackets() -> None:
    with serve(Script(say(OK)), "::1") as server:
        origin = f"http://[::1]:{server.port}"

        OutboundClient([origin]).send("GET", f"{origin}/", timeout_seconds=5, max_bytes=10)

        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


def test_an_address_that_takes_no_connections_is_passed_over(names: Names, caller: Caller) -> None:
    names.lead("hooks.example.com", "127.0.0.9 127.0.0.1")

    assert caller.get().status == 200
