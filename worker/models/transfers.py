"""One file from Hugging Face: it can be cut at any point, by anything, and goes on from there."""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shared.errors import ConfigurationError
from worker.models.hub import Hub, HubAway
from worker.models.plans import PARTIAL, PlannedFile, size_of

logger = logging.getLogger(__name__)

#: Seconds before each further try; once bytes have come, the row begins anew.
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0)
CHUNK_BYTES = 1 << 20
#: Called with how many more bytes there are; negative where some had to be thrown away.
OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Transfer:
    """A file grows as `<its name>.part`, and gets its own name once its length and its hash are right."""

    hub: Hub
    name: str
    commit: str
    folder: Path
    on_bytes: OnBytes
    pauses: Sequence[float] = PAUSES

    def fetch(self, file: PlannedFile) -> None:
        """Raises HubAway once all tries were in vain, ConfigurationError, and OSError for the disk."""
        whole = self.folder / file.path
        if size_of(whole) == file.size:
            return
        whole.parent.mkdir(parents=True, exist_ok=True)
        partial = whole.with_name(whole.name + PARTIAL)
        with partial.open("ab+") as out:
            growing = _Growing(out, self.on_bytes)
            self._receive(file, growing)
            if growing.size != file.size or file.sha256 not in (None, growing.sha256):
                growing.empty()
                raise ConfigurationError(f"{file.path} of the model {self.name} came damaged; start again to retry.")
            out.flush()
            os.fsync(out.fileno())
        partial.rename(whole)

    def _receive(self, file: PlannedFile, growing: "_Growing") -> None:
        pauses = iter(self.pauses)
        while growing.size < file.size:
            before, why = growing.received, "the connection closed"
            try:
                self._receive_once(file, growing)
            except HubAway as error:
                why = str(error)
            if growing.size >= file.size:
                return
            if growing.received > before:
                pauses = iter(self.pauses)
            pause = next(pauses, None)
            if pause is None:
                raise HubAway(why)
            logger.warning("%s of %s broke off (%s); going on in %g s", file.path, self.name, why, pause)
            time.sleep(pause)

    def _receive_once(self, file: PlannedFile, growing: "_Growing") -> None:
        with self.hub.open(self.name, self.commit, file.source, growing.size) as body:
            if body.start != growing.size:
                growing.empty()
            for chunk in body.chunks:
                growing.append(chunk)
                # More than there should be: no need to fill the disk with it.
                if growing.size > file.size:
                    return


class _Growing:
    """A file that begins with what an earlier run has left, and the hash of all of it."""

    def __init__(self, out: BinaryIO, on_bytes: OnBytes) -> None:
        self._out = out
        self._on_bytes = on_bytes
        self._digest = hashlib.sha256()
        self.received = 0
        self.size = 0
        out.seek(0)
        while chunk := out.read(CHUNK_BYTES):
            self._digest.update(chunk)
            self.size += len(chunk)

    def append(self, chunk: bytes) -> None:
        self._out.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)
        self.received += len(chunk)
        self._on_bytes(len(chunk))

    def empty(self) -> None:
        self._out.truncate(0)
        self._on_bytes(-self.size)
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
