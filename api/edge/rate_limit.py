"""What requests cost, and who has asked for too much: counted at the door, before a body is read."""

import time
from collections.abc import MutableMapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TypeVar

from starlette.datastructures import Headers

from shared.errors import RateLimited
from shared.redis.rate_limits import RateLimits
from shared.redis.store import AsyncStore

V = TypeVar("V")

#: In units, of which a request takes one, and one more for each megabyte that it announces (`units_of`).
REFUSED, FETCHED = 10, 10
MEGABYTE, MOST_MEGABYTES = 1_048_576, 64
#: Somebody for whom Redis is asked gets up to this part of a burst at once, so that most requests ask nothing of it.
PART_OF_BURST = 64
#: Of so many callers is something remembered; those who came first are forgotten first.
MOST_ACCOUNTS = 10_000


def client_network(address: str) -> str:
    """What counts as one caller: an address, or the network of an IPv6 host, which has 2^64 of them to itself."""
    try:
        read = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(read, IPv6Address):
        return address
    return str(read.ipv4_mapped or ip_network((read, 64), strict=False))


def cost_of(headers: Headers) -> int:
    """What a request costs by what its head tells. One that announces more than is taken is soon refused."""
    length = headers.get("content-length", "0")
    return 1 + min(int(length) // MEGABYTE if length.isascii() and length.isdigit() else 0, MOST_MEGABYTES)


class RateLimit:
    """Counts in Redis, for all processes together; in this process what must cost Redis nothing.

    Units are taken from Redis a few at a time, and a caller it has refused is refused here until its time has come.
    """

    def __init__(self, store: AsyncStore, rates: RateLimits, burst: int) -> None:
        self._store = store
        self._rates = rates
        self._spare = burst // PART_OF_BURST
        self._held: dict[str, int] = {}
        self._refused: dict[str, float] = {}
        self._used: dict[str, float] = {}

    async def charge(self, account: str, units: int = 1, *, begun: bool = False) -> None:
        """Raises RateLimited and StoreUnavailable."""
        if not self._rates.cost_us:
            return
        held = self._held.get(account, 0)
        if held >= units:
            self._held[account] = held - units
            return
        if not begun:
            self._wait_for(self._refused.get(account, 0.0))
        # Not to be spent a second time while Redis is asked.
        self._held.pop(account, None)
        try:
            taken = await self._store.run(self._rates.take(account, units - held, self._spare, already_counted=begun))
        except RateLimited as error:
            _remember(self._refused, account, time.monotonic() + error.seconds)
            raise
        _remember(self._held, account, self._held.get(account, 0) + held + taken - units)

    def charge_here(self, account: str, units: int = 1) -> None:
        """The same for what Redis is not to hear of. Raises RateLimited."""
        if not self._rates.cost_us:
            return
        now, cost, ahead = time.monotonic(), self._rates.cost_us / 1e6, self._rates.burst_us / 1e6
        used = max(self._used.get(account, 0.0), now)
        self._wait_for(used - ahead)
        _remember(self._used, account, used + units * cost)

    def _wait_for(self, moment: float) -> None:
        seconds = moment - time.monotonic()
        if seconds > 0:
            raise RateLimited(seconds=seconds)


def _remember(accounts: MutableMapping[str, V], account: str, value: V) -> None:
    accounts.pop(account, None)
    accounts[account] = value
    if len(accounts) > MOST_ACCOUNTS:
        del accounts[next(iter(accounts))]
