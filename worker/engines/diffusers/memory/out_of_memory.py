"""Makes jobs fit that run out of memory, and says which size would fit if nothing helps."""

import ctypes
import gc
import logging
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

import torch

from shared.errors import OutOfMemory
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities
from worker.engines.base import JobWatch
from worker.engines.diffusers.memory.errors import is_broken_device, is_out_of_memory, reason_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: How much freed tensor memory glibc may keep, and up to which size tensors are allocated there.
KEPT_BYTES, LARGEST_KEPT_BYTES = 128 << 20, 32 << 20
#: Options of mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let this process keep some of the main memory that tensors free, for the next tensors.

    By default glibc returns it, and the kernel clears every page again: 20 000 to 44 000 times for a batch of four
    images of the starter model, up to a twelfth of their time. Other C libraries are left as they are.
    """
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)


def free_memory() -> None:
    """Return all unused memory to the system and the device."""
    gc.collect()
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None


@dataclass(frozen=True)
class Fallback:
    """A slower way to generate images that needs less memory."""

    description: str
    """What was done, for the job's warnings."""
    enable: Callable[[], AbstractContextManager[object]]
    """The fallback is active until this context ends."""


@dataclass
class FittingSizes:
    """Learns from past jobs which image sizes and batches fit into memory."""

    model: Capabilities
    suggest_cloud: bool
    """Whether errors name flux-api as an alternative."""
    _largest_success: int = 0
    _smallest_failure: int = sys.maxsize
    _smallest_batch_failure: int = sys.maxsize
    """All images of a batch together."""

    def record_success(self, request: GenerationRequest) -> None:
        self._largest_success = max(self._largest_success, _pixels(request))

    def record_batch_failure(self, request: GenerationRequest, images: int) -> None:
        self._smallest_batch_failure = min(self._smallest_batch_failure, _pixels(request) * images)

    def batch_capacity(self, request: GenerationRequest, max_images: int) -> int:
        """How many images to generate as one batch: fewer than in batches that failed."""
        return max(1, min(max_images, (self._smallest_batch_failure - 1) // _pixels(request)))

    def record_failure(self, request: GenerationRequest) -> OutOfMemory:
        """An error that suggests a size that should fit."""
        self._smallest_failure = min(self._smallest_failure, _pixels(request))
        width, height = self._fitting_size(*request.size)
        alternative = f", and the backend flux-api makes {request.width}x{request.height}" if self.suggest_cloud else ""
        return OutOfMemory(
            f"The device has too little memory for {request.width}x{request.height} pixels; {width}x{height} should "
            f"fit{alternative}."
        )

    def _fitting_size(self, width: int, height: int) -> tuple[int, int]:
        """The same shape scaled to the largest success, or to the model's default size, or to a quarter."""
        native = self.model.width * self.model.height
        known = [pixels for pixels in (self._largest_success, native) if 0 < pixels < self._smallest_failure]
        scale = math.sqrt(max(known, default=self._smallest_failure // 4) / (width * height))
        multiple, least = self.model.multiple_of, self.model.min_side
        sides = (max(least, int(side * scale) // multiple * multiple) for side in (width, height))
        return next(sides), next(sides)


@dataclass
class OutOfMemoryFallbacks:
    """Enables one fallback after the other until the job fits. Leaving the block disables them again.

    It also requests a restart of the process if its memory or its device is damaged.
    """

    request: GenerationRequest
    fitting_sizes: FittingSizes
    watch: JobWatch
    release: Callable[[], None] = lambda: None
    """Frees what is kept to be faster, before any fallback."""
    _exits: ExitStack = field(default_factory=ExitStack)
    _enabled: set[str] = field(default_factory=set)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.fitting_sizes.record_success(self.request)
        try:
            self._exits.close()
        except Exception:
            logger.exception("the model could not be restored")
            self.watch.request_restart("the model could not be restored after running out of memory")

    def run(self, make: Callable[[], T], *fallbacks: Fallback) -> T:
        """The result of `make`. Whenever it runs out of memory, it is called again with the next fallback enabled.

        Raises OutOfMemory when no fallback is left.
        """
        left = [fallback for fallback in fallbacks if fallback.description not in self._enabled]
        for fallback in [*left, None]:
            try:
                return make()
            except (RuntimeError, MemoryError) as error:
                self._require_out_of_memory(error)
            # Only after the handler: until then the traceback holds every tensor of the attempt.
            self.release()
            free_memory()
            if fallback is not None:
                self._enable(fallback)
        raise self.fitting_sizes.record_failure(self.request)

    def _require_out_of_memory(self, error: RuntimeError | MemoryError) -> None:
        """Raises all other errors again."""
        if is_broken_device(error):
            self.watch.request_restart(f"the device failed: {reason_of(error)}")
        if not is_out_of_memory(error):
            raise error
        if isinstance(error, MemoryError):
            self.watch.request_restart("the process ran out of main memory")

    def _enable(self, fallback: Fallback) -> None:
        logger.warning("out of memory; trying again: %s", fallback.description)
        self.watch.add_warning(f"memory was short: {fallback.description}")
        self._enabled.add(fallback.description)
        self._exits.enter_context(fallback.enable())


def _pixels(request: GenerationRequest) -> int:
    return math.prod(request.size)
