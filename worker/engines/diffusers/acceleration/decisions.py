"""What was measured once on this machine and decided by it."""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from worker.models.contents.kept_rows import KeptRows

#: A way to compute is chosen only if it takes at most this share of the time of the usual one.
WORTHWHILE = 0.97


@dataclass(frozen=True)
class Decision:
    """`ratio` is the time of the new way, as a share of the time of the usual one."""

    ratio: float
    chosen: bool

    @classmethod
    def of(cls, ratio: float, worthwhile: float = WORTHWHILE) -> Self:
        return cls(round(ratio, 3), ratio <= worthwhile)


class Decisions:
    """Decisions about one model on one card; `identity` names all that they depend on."""

    def __init__(self, folder: Path | None, *identity: object) -> None:
        """Without a folder they last as long as this process."""
        digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:24]
        self._rows = KeptRows(folder / f"decisions-{digest}.json" if folder else None)

    def get(self, *subject: Hashable) -> Decision | None:
        match self._rows.get(*subject):
            case [int() | float() as ratio, bool(chosen)]:
                return Decision(float(ratio), chosen)
            case _:
                return None

    def put(self, decision: Decision, *subject: Hashable) -> None:
        self._rows.put([decision.ratio, decision.chosen], *subject)
