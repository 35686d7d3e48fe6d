"""How many connections may be open: in all, and to one address. Whoever asks for something comes before who is idle."""

import resource
from collections import Counter, defaultdict
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Protocol

from api.edge.rate_limit import client_network

#: Files of the process that are no connections of clients: Redis, logs, the loop's own.
OWN_FILES = 128
#: Connections beyond the limit whose request is still read: probes are answered, everything else gets 503.
MOST_LATE = 32


def files_allowed() -> int:
    """How many files this process may have open, which is from now on as many as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # What a shell says, often 1024, is meant for programs that use select().
    for most in (hard, 65_536, 10_240):
        if most == resource.RLIM_INFINITY or most <= soft:
            continue
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):
            # macOS says that there is no limit, and has one.
            continue
        return most
    return soft if soft != resource.RLIM_INFINITY else 65_536


class TrackedConnection(Protocol):
    """A connection."""

    def hang_up(self) -> None:
        """It has no request, or its place is needed: it must make room."""


class ConnectionLimit:
    """The connections that are open. At a limit, the one goes that has been without a request for longest."""

    def __init__(self, most: int, most_per_address: int, proxies: Sequence[str], files: int) -> None:
        """`proxies` bring many clients, and so count for none; `files` is what the process may have open."""
        # A connection may have a second file: an image that comes or goes.
        self._most = max(1, min(most, (files - OWN_FILES) // 2))
        # One address alone does not fill the service.
        self._most_per_address = max(1, min(most_per_address, self._most // 2))
        self._proxies = [ip_network(entry) for entry in proxies]
        self._place: dict[TrackedConnection, str] = {}
        self._open: Counter[str] = Counter()
        self._idle: defaultdict[str, dict[TrackedConnection, None]] = defaultdict(dict)
        self._all_idle: dict[TrackedConnection, None] = {}
        self._late: dict[TrackedConnection, None] = {}

    def enter(self, guest: TrackedConnection, peer: str | None) -> bool:
        """Whether there is a place for it; if not, it is late."""
        address = self._counted_as(peer)
        if address and self._open[address] >= self._most_per_address:
            self._make_room(self._idle.get(address, {}))
        elif len(self._place) >= self._most:
            self._make_room(self._all_idle)
        crowded = bool(address) and self._open[address] >= self._most_per_address
        if crowded or len(self._place) >= self._most:
            if len(self._late) >= MOST_LATE:
                self._make_room(self._late)
            self._late[guest] = None
            return False
        self._place[guest] = address
        self._open[address] += 1
        self.rest(guest)
        return True

    def is_late(self, guest: TrackedConnection) -> bool:
        return guest in self._late

    def work(self, guest: TrackedConnection) -> None:
        """It has a request, and keeps its place."""
        self._all_idle.pop(guest, None)
        address = self._place.get(guest, "")
        idle = self._idle.get(address)
        if idle is not None:
            idle.pop(guest, None)
            if not idle:
                del self._idle[address]

    def rest(self, guest: TrackedConnection) -> None:
        """It has no request any more."""
        if guest in self._place:
            self._all_idle[guest] = self._idle[self._place[guest]][guest] = None

    def leave(self, guest: TrackedConnection) -> None:
        self.work(guest)
        self._late.pop(guest, None)
        address = self._place.pop(guest, None)
        if address is not None:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def _make_room(self, idle: dict[TrackedConnection, None]) -> None:
        longest = next(iter(idle), None)
        if longest is not None:
            self.leave(longest)
            longest.hang_up()

    def _counted_as(self, peer: str | None) -> str:
        """Empty for what is no single client: a trusted proxy, a socket of this machine."""
        if not peer:
            return ""
        address = ip_address(peer.partition("%")[0])
        return "" if any(address in network for network in self._proxies) else client_network(peer)
