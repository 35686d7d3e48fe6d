"""The workers as Redis has them."""

import time

from shared.redis.clock import StoreClock
from shared.redis.store import AsyncStore
from shared.workers.records import Fleet, Workers

#: Age limit of the cached fleet, which a flood of submissions or health checks shares.
FLEET_SECONDS = 0.5


async def read_fleet(store: AsyncStore, workers: Workers, clock: StoreClock) -> Fleet:
    """Also sets the clock. Raises StoreUnavailable."""
    started_at = time.monotonic()
    fleet = await store.run(workers.read_fleet())
    clock.sync(fleet.store_ms, started_at)
    return fleet
