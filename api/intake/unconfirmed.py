"""Jobs of which this process does not know whether the store has them: no answer came in time."""

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress

from shared.errors import AcceptanceUnconfirmed, StoreUnavailable
from shared.jobs.admission import IdempotencyKey
from shared.jobs.operations import Jobs
from shared.redis.store import AsyncStore

#: So many are kept in mind; the oldest go first.
MOST = 4096
RETRY_SECONDS = 0.5


class UnconfirmedJobs:
    """Has the store leave such a job, once it answers, to the same request: that may come again to any process.

    A store that only fell silent does so by itself (lua/jobs/unconfirmed.lua); this is for answers that were lost.
    """

    def __init__(self, store: AsyncStore, jobs: Jobs) -> None:
        self._store = store
        self._jobs = jobs
        self._open: OrderedDict[str, tuple[IdempotencyKey, float]] = OrderedDict()
        self._settling: asyncio.Task[None] | None = None

    def add(self, repeat: IdempotencyKey, job_id: str) -> None:
        self._open[job_id] = repeat, time.monotonic() + repeat.lifetime_ms / 1000
        if len(self._open) > MOST:
            self._open.popitem(last=False)
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle_all())

    async def settle(self, repeat: IdempotencyKey) -> None:
        """Before the same request is tried again. Raises AcceptanceUnconfirmed where that cannot be settled yet."""
        for job_id in [job_id for job_id, (known, _) in self._open.items() if known.name == repeat.name]:
            try:
                await self._settle(job_id)
            except StoreUnavailable:
                raise AcceptanceUnconfirmed(job_id) from None

    async def _settle(self, job_id: str) -> None:
        repeat, expires = self._open.get(job_id, (None, 0.0))
        if repeat is not None and time.monotonic() < expires:
            await self._store.run(self._jobs.mark_unconfirmed(repeat, job_id))
        self._open.pop(job_id, None)

    async def _settle_all(self) -> None:
        while self._open:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(StoreUnavailable):
                for job_id in list(self._open):
                    await self._settle(job_id)
