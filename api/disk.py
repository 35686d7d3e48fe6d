"""Whether there is room for more pictures."""

import asyncio
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from shared.errors import StorageFull

#: How old an answer may be: a flood of submits looks at the disk once.
FRESH_SECONDS = 1.0


@dataclass(frozen=True)
class Disk:
    writable: bool
    free_bytes: int | None
    """None when it cannot be told."""
    size_bytes: int | None = None


class DiskWatch:
    """The disk that pictures go to, as last seen. Looked at on a thread: a network disk may take its time."""

    def __init__(self, root: Path, min_free_bytes: int) -> None:
        self._root = root
        self._min_free_bytes = min_free_bytes
        self._looking: asyncio.Task[Disk] | None = None
        self._expires = 0.0

    async def seen(self) -> Disk:
        if self._looking is None or (self._looking.done() and time.monotonic() >= self._expires):
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def has_room(self) -> bool:
        disk = await self.seen()
        return disk.writable and disk.free_bytes is not None and disk.free_bytes >= self._min_free_bytes

    async def require_room(self) -> None:
        """Raises StorageFull."""
        if not await self.has_room():
            writable = (await self.seen()).writable
            raise StorageFull(None if not writable else "There is too little free space for more pictures.")

    async def _look(self) -> Disk:
        disk = await asyncio.to_thread(_look_at, self._root)
        self._expires = time.monotonic() + FRESH_SECONDS
        return disk


def _look_at(root: Path) -> Disk:
    try:
        writable = os.access(root, os.W_OK) and not os.statvfs(root).f_flag & os.ST_RDONLY
        usage = shutil.disk_usage(root)
        return Disk(writable=writable, free_bytes=usage.free, size_bytes=usage.total)
    except OSError:
        return Disk(writable=False, free_bytes=None)
