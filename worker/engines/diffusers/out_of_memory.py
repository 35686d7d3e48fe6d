"""How a job that needs too much memory is made to fit, and what is said when it cannot be."""

import ctypes
import gc
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from shared.errors import OutOfMemory
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities
from worker.engines.base import JobWatch

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: The autoencoders' own tiles are as large as the images of their training, which is of no help for just those.
TILE = 512

#: What is in the messages of the errors that are no torch.OutOfMemoryError: of the CPU, of Apple's GPU, and of CUDA's
#: own libraries, which ask for memory past torch.
_SIGNS = (
    "can't allocate memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)

#: What glibc may keep of the memory that tensors have left, and how large a tensor may be to come to lie there.
KEPT_BYTES, LARGEST_KEPT_BYTES = 128 << 20, 32 << 20
#: Options of mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def is_broken_device(error: BaseException) -> bool:
    """Whether nothing that this process computes on the device can be trusted any more."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def keep_freed_memory() -> None:
    """Have this process keep some of the main memory that tensors leave, for those that come next.

    As it comes, glibc gives it back, and the kernel clears each page anew: 20 000 to 44 000 times for four images of
    the starter model at once, which is up to a twelfth of their time. Other C libraries are left as they are.
    """
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)


def free_memory() -> None:
    """Give back what nobody holds any more."""
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


@contextmanager
def tiled(autoencoder: Any) -> Iterator[None]:
    """Encode and decode in tiles until the block is left."""
    before = autoencoder.tile_sample_min_size, autoencoder.tile_latent_min_size
    autoencoder.tile_sample_min_size = min(TILE, before[0])
    autoencoder.tile_latent_min_size = max(1, before[1] * autoencoder.tile_sample_min_size // before[0])
    autoencoder.enable_tiling()
    try:
        yield
    finally:
        autoencoder.disable_tiling()
        autoencoder.tile_sample_min_size, autoencoder.tile_latent_min_size = before


@dataclass(frozen=True)
class Fallback:
    """A way to need less memory, for which the job takes longer."""

    told: str
    """What was done, for the job's warnings."""
    begin: Callable[[], AbstractContextManager[object]]
    """In effect until its block is left."""


class MemoryBudget:
    """What is known of how large images may be here: from those that were made, and those for which memory failed."""

    def __init__(self, model: Capabilities, *, cloud: bool) -> None:
        """`cloud`: whether callers can be sent to flux-api."""
        self._model = model
        self._cloud = cloud
        self._worked = 0
        self._failed = sys.maxsize
        #: In one go, of all images together.
        self._failed_together = sys.maxsize

    def made(self, request: GenerationRequest) -> None:
        self._worked = max(self._worked, _pixels(request))

    def crowded(self, request: GenerationRequest, images: int) -> None:
        """So many did not fit in one go."""
        self._failed_together = min(self._failed_together, _pixels(request) * images)

    def together(self, request: GenerationRequest, most: int) -> int:
        """How many to make in one go, up to `most`: fewer than have failed."""
        return max(1, min(most, (self._failed_together - 1) // _pixels(request)))

    def failure(self, request: GenerationRequest) -> OutOfMemory:
        """What to tell of a request that did not fit: a size that should."""
        self._failed = min(self._failed, _pixels(request))
        width, height = self._fitting(request.width or self._model.width, request.height or self._model.height)
        elsewhere = f", and the backend flux-api makes {request.width}x{request.height}" if self._cloud else ""
        return OutOfMemory(
            f"The device has too little memory for {request.width}x{request.height} pixels; {width}x{height} should "
            f"fit{elsewhere}."
        )

    def _fitting(self, width: int, height: int) -> tuple[int, int]:
        """Of the same shape, and of the size of the largest that was made, else of the model's own, else a quarter."""
        native = self._model.width * self._model.height
        known = [pixels for pixels in (self._worked, native) if 0 < pixels < self._failed]
        scale = math.sqrt(max(known, default=self._failed // 4) / (width * height))
        multiple, least = self._model.multiple_of, self._model.min_side
        sides = (max(least, int(side * scale) // multiple * multiple) for side in (width, height))
        return next(sides), next(sides)


class OutOfMemoryFallbacks:
    """What one job gives up, one relief after the other, so that it fits. Leaving the block puts everything back.

    It also sees to it that a process whose memory or device was damaged does no other job.
    """

    def __init__(self, request: GenerationRequest, room: MemoryBudget, watch: JobWatch) -> None:
        self._request = request
        self._room = room
        self._watch = watch
        self._taken = ExitStack()
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self._room.made(self._request)
        try:
            self._taken.close()
        except Exception:
            logger.exception("the model could not be put back")
            self._watch.request_restart("the model could not be put back after memory ran out")

    def run(self, make: Callable[[], T], *reliefs: Fallback) -> T:
        """What `make` gives; after each lack of memory again, with the next of `reliefs` that the job has not taken.

        Raises OutOfMemory when none is left.
        """
        left = [relief for relief in reliefs if relief.told not in self._told]
        for relief in [*left, None]:
            try:
                return make()
            except (RuntimeError, MemoryError) as error:
                self._judge(error)
            # Not before the handler is left: until then the traceback holds every tensor of the attempt.
            free_memory()
            if relief is not None:
                self._take(relief)
        raise self._room.failure(self._request)

    def _judge(self, error: RuntimeError | MemoryError) -> None:
        """Raises what is no lack of memory."""
        if is_broken_device(error):
            self._watch.request_restart(f"the device failed: {str(error).partition(chr(10))[0]}")
        if not is_out_of_memory(error):
            raise error
        if isinstance(error, MemoryError):
            self._watch.request_restart("the process itself ran out of memory")

    def _take(self, relief: Fallback) -> None:
        logger.warning("out of memory; trying again: %s", relief.told)
        self._watch.add_warning(f"memory was short: {relief.told}")
        self._told.add(relief.told)
        self._taken.enter_context(relief.begin())


def _pixels(request: GenerationRequest) -> int:
    return (request.width or 0) * (request.height or 0)
