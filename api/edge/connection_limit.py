"""Limits open connections, in all and per address; idle connections make room for busy ones."""

import resource
from collections import Counter, defaultdict
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Protocol

from api.edge.rate_limit import client_network

#: Files of the process that are not connections of clients: Redis, logs, the event loop.
RESERVED_FILES = 128
#: Connections beyond the limit whose request is still read: probes are answered, everything else gets 503.
MAX_EXCESS = 32


def raise_file_limit() -> int:
    """Raise the limit of open files as far as the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The soft limit, often 1024, protects programs that use select().
    for limit in (hard, 65_536, 10_240):
        if limit == resource.RLIM_INFINITY or limit <= soft:
            continue
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):
            # macOS reports no limit, and has one.
            continue
        return limit
    return soft if soft != resource.RLIM_INFINITY else 65_536


class TrackedConnection(Protocol):
    def disconnect(self) -> None:
        """Close the connection, which is idle or beyond the limit."""


class ConnectionLimit:
    """Tracks open connections. At a limit it closes the one that has been idle for longest."""

    def __init__(self, limit: int, limit_per_address: int, proxies: Sequence[str], max_files: int) -> None:
        """`proxies` bring many clients, and are exempt from the limit per address."""
        # A connection may need a second file: an image that it uploads or downloads.
        self._limit = max(1, min(limit, (max_files - RESERVED_FILES) // 2))
        # No single address can fill the service.
        self._limit_per_address = max(1, min(limit_per_address, self._limit // 2))
        self._proxies = [ip_network(entry) for entry in proxies]
        self._addresses: dict[TrackedConnection, str] = {}
        self._open: Counter[str] = Counter()
        self._idle: defaultdict[str, dict[TrackedConnection, None]] = defaultdict(dict)
        self._all_idle: dict[TrackedConnection, None] = {}
        self._excess: dict[TrackedConnection, None] = {}

    def add(self, connection: TrackedConnection, peer: str | None) -> None:
        """Admit a new connection, or note that it is beyond the limit."""
        address = self._limited_address(peer)
        if self._is_crowded(address):
            self._close_oldest(self._idle.get(address, {}))
        elif self._is_full:
            self._close_oldest(self._all_idle)
        if self._is_crowded(address) or self._is_full:
            if len(self._excess) >= MAX_EXCESS:
                self._close_oldest(self._excess)
            self._excess[connection] = None
            return
        self._addresses[connection] = address
        self._open[address] += 1
        self.mark_idle(connection)

    def is_excess(self, connection: TrackedConnection) -> bool:
        return connection in self._excess

    def mark_busy(self, connection: TrackedConnection) -> None:
        """The connection has a request, and is not closed for others."""
        self._all_idle.pop(connection, None)
        address = self._addresses.get(connection, "")
        idle = self._idle.get(address)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[address]

    def mark_idle(self, connection: TrackedConnection) -> None:
        if connection in self._addresses:
            self._all_idle[connection] = self._idle[self._addresses[connection]][connection] = None

    def remove(self, connection: TrackedConnection) -> None:
        self.mark_busy(connection)
        self._excess.pop(connection, None)
        address = self._addresses.pop(connection, None)
        if address is not None:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    @property
    def _is_full(self) -> bool:
        return len(self._addresses) >= self._limit

    def _is_crowded(self, address: str) -> bool:
        return bool(address) and self._open[address] >= self._limit_per_address

    def _close_oldest(self, connections: dict[TrackedConnection, None]) -> None:
        oldest = next(iter(connections), None)
        if oldest is not None:
            self.remove(oldest)
            oldest.disconnect()

    def _limited_address(self, peer: str | None) -> str:
        """Empty for a peer that is not one client: a trusted proxy or a local socket."""
        if not peer:
            return ""
        address = ip_address(peer.partition("%")[0])
        return "" if any(address in network for network in self._proxies) else client_network(peer)
