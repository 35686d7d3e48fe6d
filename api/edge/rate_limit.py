"""Limits the request rate of each caller before a body is read."""

import time
from collections.abc import MutableMapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TypeVar

from starlette.datastructures import Headers

from shared.errors import RateLimited
from shared.redis.rate_limits import RateLimits
from shared.redis.store import AsyncStore

V = TypeVar("V")

#: Costs in units. A request costs one, and one more per megabyte of its body (`request_cost`).
REFUSAL_COST, FETCH_COST = 10, 10
MEGABYTE, MAX_MEGABYTES = 1_048_576, 64
#: Each call to Redis reserves up to this fraction of a burst, so that most requests need no call.
BURST_FRACTION = 64
#: Clients remembered in this process; the oldest are forgotten first.
MAX_CLIENTS = 10_000


@lru_cache(maxsize=1024)
def client_network(address: str) -> str:
    """The address that counts as one client: for IPv6 its /64 network, because one host has 2^64 addresses."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))


def request_cost(headers: Headers) -> int:
    """The units that a request costs, judged by its head. One with too large a body is soon refused anyway."""
    length = headers.get("content-length", "0")
    return 1 + min(int(length) // MEGABYTE if length.isascii() and length.isdigit() else 0, MAX_MEGABYTES)


class RateLimit:
    """Counts requests in Redis for all processes together, and in this process where Redis must not be needed.

    Units are reserved in Redis a few at a time. A client that Redis refuses is refused locally until it may return.
    """

    def __init__(self, store: AsyncStore, rates: RateLimits, burst: int) -> None:
        self._store = store
        self._rates = rates
        self._spare = burst // BURST_FRACTION
        self._reserved: dict[str, int] = {}
        self._refused_until: dict[str, float] = {}
        self._charged_until: dict[str, float] = {}

    async def charge(self, client_id: str, units: int = 1, *, in_progress: bool = False) -> None:
        """Raises RateLimited and StoreUnavailable."""
        if not self._rates.cost_us:
            return
        reserved = self._reserved.get(client_id, 0)
        if reserved >= units:
            self._reserved[client_id] = reserved - units
            return
        if not in_progress:
            self._require(self._refused_until.get(client_id, 0.0))
        # Spent here, so that no other request spends them during the call to Redis.
        self._reserved.pop(client_id, None)
        try:
            taken = await self._store.run(
                self._rates.take(client_id, units - reserved, self._spare, already_counted=in_progress)
            )
        except RateLimited as error:
            _remember(self._refused_until, client_id, time.monotonic() + error.seconds)
            raise
        _remember(self._reserved, client_id, self._reserved.get(client_id, 0) + reserved + taken - units)

    def charge_locally(self, client_id: str, units: int = 1) -> None:
        """Count in this process only. Raises RateLimited."""
        if not self._rates.cost_us:
            return
        now, cost, ahead = time.monotonic(), self._rates.cost_us / 1e6, self._rates.burst_us / 1e6
        charged_until = max(self._charged_until.get(client_id, 0.0), now)
        self._require(charged_until - ahead)
        _remember(self._charged_until, client_id, charged_until + units * cost)

    def _require(self, moment: float) -> None:
        """Raises RateLimited until that moment."""
        seconds = moment - time.monotonic()
        if seconds > 0:
            raise RateLimited(seconds=seconds)


def _remember(clients: MutableMapping[str, V], client_id: str, value: V) -> None:
    clients.pop(client_id, None)
    clients[client_id] = value
    if len(clients) > MAX_CLIENTS:
        del clients[next(iter(clients))]
