"""Checks that storage has space for more images."""

import asyncio
import time

from shared.errors import StorageFull
from shared.storage.object_store import DiskUsage, ObjectStore

#: Age limit of the cached usage, which a flood of submissions shares.
FRESH_SECONDS = 1.0


class DiskSpace:
    """The cached disk usage of the image storage, read on a thread because network storage may be slow."""

    def __init__(self, storage: ObjectStore, min_free_bytes: int) -> None:
        self._storage = storage
        self._min_free_bytes = min_free_bytes
        self._reading: asyncio.Task[DiskUsage] | None = None
        self._expires = 0.0

    async def usage(self) -> DiskUsage:
        if self._reading is not None and self._reading.done() and time.monotonic() < self._expires:
            return self._reading.result()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(self._reading)

    async def has_space(self) -> bool:
        usage = await self.usage()
        return usage.is_writable and (usage.free_bytes is None or usage.free_bytes >= self._min_free_bytes)

    async def require_space(self) -> None:
        """Raises StorageFull and StorageUnavailable."""
        if (error := (await self.usage()).error) is not None:
            raise type(error)(error.detail)
        if not await self.has_space():
            raise StorageFull("There is not enough free space for more images.")

    async def _read(self) -> DiskUsage:
        usage = await asyncio.to_thread(self._storage.disk_usage)
        self._expires = time.monotonic() + FRESH_SECONDS
        return usage
