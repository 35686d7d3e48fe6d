"""Whether there is room for more images."""

import asyncio
import time

from shared.errors import StorageFull
from shared.storage.object_store import DiskUsage, ObjectStore

#: How old an answer may be: a flood of submits looks once.
FRESH_SECONDS = 1.0


class DiskSpace:
    """The storage of images, as last seen. Looked at on a thread: what lies behind a network may take its time."""

    def __init__(self, storage: ObjectStore, min_free_bytes: int) -> None:
        self._storage = storage
        self._min_free_bytes = min_free_bytes
        self._looking: asyncio.Task[DiskUsage] | None = None
        self._expires = 0.0

    async def seen(self) -> DiskUsage:
        if self._looking is None or (self._looking.done() and time.monotonic() >= self._expires):
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def has_room(self) -> bool:
        usage = await self.seen()
        return usage.is_writable and (usage.free_bytes is None or usage.free_bytes >= self._min_free_bytes)

    async def require_room(self) -> None:
        """Raises StorageFull and StorageUnavailable."""
        if (error := (await self.seen()).error) is not None:
            raise type(error)(error.detail)
        if not await self.has_room():
            raise StorageFull("There is too little free space for more images.")

    async def _look(self) -> DiskUsage:
        usage = await asyncio.to_thread(self._storage.disk_usage)
        self._expires = time.monotonic() + FRESH_SECONDS
        return usage
