"""What was measured once on this machine and decided by it, kept in a file over restarts."""

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

MAX_DECISIONS, MAX_BYTES = 512, 1 << 20


@dataclass(frozen=True)
class Decision:
    """`ratio` is the time of the new way, as a share of the time of the usual one."""

    ratio: float
    chosen: bool


class Decisions:
    """Decisions about one model on one card; `identity` names all that they depend on.

    Losing the file costs measuring again, so no error of it stops anything.
    """

    def __init__(self, folder: Path | None, *identity: object) -> None:
        """Without a folder they last as long as this process."""
        digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:24]
        self._file = folder / f"decisions-{digest}.json" if folder else None
        self._known: OrderedDict[str, Decision] = OrderedDict()
        if self._file is not None:
            self._read(self._file)

    def get(self, *subject: Hashable) -> Decision | None:
        return self._known.get(_key(subject))

    def put(self, decision: Decision, *subject: Hashable) -> None:
        self._known[_key(subject)] = decision
        while len(self._known) > MAX_DECISIONS:
            self._known.popitem(last=False)
        if self._file is not None:
            self._write(self._file)

    def _read(self, file: Path) -> None:
        try:
            if file.stat().st_size > MAX_BYTES:
                return
            rows = json.loads(file.read_text("utf-8"))
            self._known.update((key, Decision(float(ratio), chosen is True)) for key, (ratio, chosen) in rows.items())
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("what was measured on this device before is not readable and is measured again: %s", error)
            self._known.clear()

    def _write(self, file: Path) -> None:
        rows = {key: (decision.ratio, decision.chosen) for key, decision in self._known.items()}
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            staged = file.with_suffix(f".{os.getpid()}")
            staged.write_text(json.dumps(rows), "utf-8")
            staged.replace(file)


def _key(subject: tuple[Hashable, ...]) -> str:
    return hashlib.sha256(repr(subject).encode()).hexdigest()[:24]
