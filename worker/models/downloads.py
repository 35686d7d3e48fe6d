"""Models from Hugging Face, each into a folder of its own: what is needed, resumable, with progress."""

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shared.errors import ConfigurationError
from worker.models.hub import Hub, HubAway
from worker.models.pipelines import INDEX, parts_of, read_index, wanted
from worker.models.plans import OnProgress, Plan, readable
from worker.models.transfers import PAUSES, Transfer

logger = logging.getLogger(__name__)

#: How often progress is told.
TELL_SECONDS = 1.0
#: What a disk should keep for everything else.
SPARE_BYTES = 256 << 20


@dataclass(frozen=True)
class Downloader:
    hub: Hub
    half: bool
    """Whether weights in half precision are taken where the model has them: half the bytes."""
    on_progress: OnProgress
    """Called when it begins, at most once a second, and when all is there."""
    index: str = INDEX
    """The file that says what is in the model."""
    pauses: Sequence[float] = PAUSES

    def fetch(self, name: str, folder: Path) -> None:
        """Make the folder hold the whole model; where another process is at it, wait for that.

        Raises ConfigurationError with what to do where the network, the token or the disk is missing. What has come
        by then stays, and the next call goes on from there.
        """
        with _disk_errors(name, folder), _away(name, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with _gone_if_empty(folder), _alone(name, folder):
                if not (folder / self.index).is_file():
                    self._fetch(name, folder)

    def _fetch(self, name: str, folder: Path) -> None:
        plan = Plan.found_in(folder) or self._plan(name, folder)
        counter = _Counter(partial(self.on_progress, name), plan.bytes_done(folder), plan.bytes_total)
        _require_room(name, folder, counter.missing)
        transfer = Transfer(self.hub, name, plan.commit, folder, counter.add, self.pauses)
        for file in plan.files:
            transfer.fetch(file)
        counter.tell()

    def _plan(self, name: str, folder: Path) -> Plan:
        repository = self.hub.look(name)
        if self.index not in {file.path for file in repository.files}:
            raise ConfigurationError(f"{name} on Hugging Face has no {self.index}: it is not in diffusers' format.")
        with self.hub.open(name, repository.commit, self.index) as body:
            parts = parts_of(read_index(name, b"".join(body.chunks)), name, self.index)
        files = wanted(repository.files, parts, name, half=self.half, index=self.index)
        plan = Plan.of(repository.commit, files)
        plan.write(folder)
        return plan


class _Counter:
    """Counts bytes and tells of them now and then."""

    def __init__(self, on_progress: Callable[[int, int], None], done: int, total: int) -> None:
        self._on_progress = on_progress
        self._done = done
        self._total = total
        self.tell()

    @property
    def missing(self) -> int:
        return self._total - self._done

    def add(self, count: int) -> None:
        self._done += count
        if time.monotonic() >= self._told + TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        self._told = time.monotonic()
        self._on_progress(self._done, self._total)


@contextmanager
def _alone(name: str, folder: Path) -> Iterator[None]:
    """Two processes that append to the same files would spoil them. The lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is downloading %s; waiting for it", name)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _gone_if_empty(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        # Neither goes where there is something in it.
        with suppress(OSError):
            folder.rmdir()
            folder.parent.rmdir()


def _require_room(name: str, folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing and missing + SPARE_BYTES > free:
        raise _no_room(name, folder, f"{readable(missing)} more are needed and {readable(free)} are free")


@contextmanager
def _disk_errors(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(name, folder, "the disk is full") from error
        raise ConfigurationError(
            f"The model {name} cannot be kept in {folder.absolute()} ({error.strerror}): "
            "name another folder with SD_MODEL_DIR."
        ) from error


@contextmanager
def _away(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except HubAway as error:
        kept = "; what has come is kept" if Plan.found_in(folder) else ""
        raise ConfigurationError(
            f"The model {name} is not in {folder.absolute()}, and Hugging Face cannot be reached ({error}): try again "
            f"when it can{kept}, or copy the folder from another machine."
        ) from None


def _no_room(name: str, folder: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The model {name} does not fit into {folder.absolute()}: {why}. Make room, or name another disk with "
        "SD_MODEL_DIR."
    )
