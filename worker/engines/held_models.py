"""What a pool of models holds, and what it needs from others."""

from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from shared.errors import ModelUnavailable
from shared.jobs.job import ModelLoad
from shared.models.capabilities import Capabilities
from shared.models.catalogue import ModelEntry
from worker.engines.base import KnownModels, OnLoad, PooledEngine, Sizes


class ModelLoader(KnownModels, Protocol):
    """Finds and loads models. It does not know which ones are in memory."""

    def expected_sizes(self, model: str) -> Sizes:
        """Memory that a model will take, as measured before or by its files. Parts in memory have their usual keys."""
        ...

    def load(self, model: str, on_load: OnLoad) -> PooledEngine:
        """Raises OutOfMemory, and ModelUnavailable with the reason."""
        ...

    def scan(self) -> Mapping[str, ModelEntry]:
        """Look for models, and return what is known of each, by name."""
        ...


@dataclass(frozen=True)
class Inspected:
    """What was found out about the files of a model without loading it."""

    revision: str
    capabilities: Capabilities | None
    reason: str | None = None
    """Why it cannot be used."""

    def require(self, model: str) -> Capabilities:
        """Raises ModelUnavailable."""
        if self.capabilities is None:
            raise ModelUnavailable(f"The model {model} cannot be used: {self.reason}")
        return self.capabilities


@dataclass(frozen=True)
class HeldModel:
    """A model in memory."""

    name: str
    engine: PooledEngine
    revision: str | None
    sizes: Sizes
    is_on_device: bool = True
    users: int = 0
    used_at: float = 0.0

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes.values())


def added_bytes(sizes: Sizes, models: Iterable[HeldModel]) -> int:
    """Bytes of the parts that none of these models has."""
    present = parts_of(models)
    return sum(size for part, size in sizes.items() if part not in present)


def total_bytes(models: Iterable[HeldModel]) -> int:
    """Bytes of all parts; shared ones count once."""
    return sum({part: size for model in models for part, size in model.sizes.items()}.values())


def parts_of(models: Iterable[HeldModel]) -> Set[Hashable]:
    return {part for model in models for part in model.sizes}


class PoolListener(Protocol):
    """Is notified of changes, on the thread that makes them. That thread holds at most the lock of loading."""

    def changed(self, models: Sequence[HeldModel], load: ModelLoad | None) -> None: ...

    def loaded(self, model: HeldModel, seconds: float) -> None: ...

    def evicted(self, model: str) -> None: ...
