"""How much memory models may take: what the operator allows, or what is free."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Stays free for rendering, beside what the engine itself plans for: at least so much, and this share of the model.
MIN_WORKING_BYTES, WORKING_SHARE = 1 << 30, 0.15
#: Stays free in main memory for everything else on the machine.
MAIN_MEMORY_RESERVE_BYTES = 2 << 30


def available_main_memory() -> int | None:
    """What programs can still take, within the limit of this container; None if unknown."""
    known = [size for size in (_of_machine(), _of_container()) if size is not None]
    return min(known, default=None)


def main_memory_share(workers: int) -> int | None:
    """What one of several workers on this machine may take of it."""
    free = available_main_memory()
    return None if free is None else free // workers


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _of_container() -> int | None:
    """By control groups, version 2."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Cached files are given up when programs need the room.
    return None if limit == "max" else int(limit) - used + int(statistics.get("inactive_file", 0))


@dataclass(frozen=True)
class MemoryBudget:
    """What models may take on the device: what is free there, unless the operator has set a limit."""

    free_device_memory: Callable[[], int | None] = lambda: None
    """None where it is main memory, or unknown."""
    free_main_memory: Callable[[], int | None] = available_main_memory
    limit_bytes: int | None = None
    """For the weights of all models on the device."""

    @property
    def is_strict(self) -> bool:
        """Whether a model for which no room can be made is not loaded; otherwise its engine finds a way, or fails."""
        return self.limit_bytes is not None

    def missing_bytes(self, needed: int, held: int) -> int:
        """How much has to be freed before `needed` bytes are added to models of `held` bytes."""
        if self.limit_bytes is not None:
            return held + needed - self.limit_bytes
        if not needed:
            return 0
        free = self.free_device_memory()
        if free is None:
            free, reserve = self.free_main_memory(), MAIN_MEMORY_RESERVE_BYTES
        else:
            reserve = max(MIN_WORKING_BYTES, int(needed * WORKING_SHARE))
        return 0 if free is None else needed + reserve - free

    def has_main_memory(self, size: int) -> bool:
        """Whether main memory is another one than the device's, with room for a model that waits there."""
        free = self.free_main_memory() if self.free_device_memory() is not None else None
        return free is not None and free >= size + MAIN_MEMORY_RESERVE_BYTES
