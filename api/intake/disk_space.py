"""Checks that storage has space for more images."""

import asyncio
from functools import partial

from api.models.cached_read import CachedRead
from shared.errors import StorageFull
from shared.storage.object_store import DiskUsage, ObjectStore

#: Age limit of the cached usage, which a flood of submissions shares.
FRESH_SECONDS = 1.0


class DiskSpace:
    """The cached disk usage of the image storage, read on a thread because network storage may be slow."""

    def __init__(self, storage: ObjectStore, min_free_bytes: int) -> None:
        self._min_free_bytes = min_free_bytes
        self._usage = CachedRead(partial(asyncio.to_thread, storage.disk_usage), FRESH_SECONDS)

    async def usage(self) -> DiskUsage:
        return await self._usage.get()

    async def has_space(self) -> bool:
        usage = await self.usage()
        return usage.is_writable and (usage.free_bytes is None or usage.free_bytes >= self._min_free_bytes)

    async def require_space(self) -> None:
        """Raises StorageFull and StorageUnavailable."""
        if (error := (await self.usage()).error) is not None:
            raise type(error)(error.detail)
        if not await self.has_space():
            raise StorageFull("There is not enough free space for more images.")
