"""The catalogue: every model that requests may name, with what is known of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from heapq import nlargest

from shared.jobs.types import Backend, FrozenModel
from shared.models.capabilities import Capabilities

#: Names that an error suggests, that are compared for it, and characters of the wanted name that count.
MAX_NEAR, MAX_CANDIDATES, MAX_COMPARED = 3, 16, 64


class ModelState(StrEnum):
    LOADED = "loaded"
    """In the memory of a worker."""
    LOADING = "loading"
    AVAILABLE = "available"
    """On disk, or in the cloud; loaded when a job needs it."""
    DOWNLOADING = "downloading"
    MISSING = "missing"
    """The operator named it, but it is not on disk."""
    BROKEN = "broken"

    @property
    def is_usable(self) -> bool:
        return self in (ModelState.LOADED, ModelState.LOADING, ModelState.AVAILABLE)


class ModelEntry(FrozenModel):
    """A model of one backend, as its workers find it."""

    name: str
    backend: Backend
    state: ModelState = ModelState.AVAILABLE
    reason: str | None = None
    """Why it cannot be used."""
    title: str | None = None
    family: str | None = None
    revision: str | None = None
    """Identifies its files, or its version."""
    bytes: int | None = None
    """Size on disk."""
    licence: str | None = None
    commercial_use: bool | None = None
    """Whether the licence allows it; None if unknown."""
    trigger_words: tuple[str, ...] = ()
    placement: str | None = None
    """How much of it is on the device: resident, model-offload or group-offload."""
    capabilities: Capabilities | None = None
    """None while they are unknown."""


@dataclass(frozen=True)
class Catalogue:
    """Entries of all backends by name. Built once per change, because it may hold thousands."""

    entries: tuple[ModelEntry, ...] = ()
    _by_name: dict[str, dict[Backend, ModelEntry]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name: dict[str, dict[Backend, ModelEntry]] = {}
        for entry in self.entries:
            by_name.setdefault(entry.name, {})[entry.backend] = entry
        object.__setattr__(self, "_by_name", by_name)

    @property
    def names(self) -> Iterable[str]:
        return self._by_name.keys()

    def find(self, name: str, backend: Backend) -> ModelEntry | None:
        return self._by_name.get(name, {}).get(backend)

    def near(self, name: str) -> tuple[str, ...]:
        """Known names like this one: the same in other case or without its folder first, then similar ones."""
        # Of a long name, the beginning suffices.
        wanted = name.casefold()[:MAX_COMPARED]
        short = wanted.rpartition("/")[2]
        folded = {known.casefold(): known for known in self.names}
        same = [known for fold, known in folded.items() if fold == wanted or fold.rpartition("/")[2] == short]
        similar = [folded[match] for match in get_close_matches(wanted, _candidates(wanted, folded), MAX_NEAR)]
        return tuple(dict.fromkeys((*sorted(same)[:MAX_NEAR], *similar)))[:MAX_NEAR]


def _candidates(wanted: str, names: Iterable[str]) -> list[str]:
    """The names that share most parts with this one: comparing it with thousands would take a second."""
    length = 3 if len(wanted) > 5 else 2
    parts = {wanted[start : start + length] for start in range(len(wanted) - length + 1)}
    return nlargest(MAX_CANDIDATES, names, key=lambda name: sum(part in name for part in parts))
