"""What a pool of models holds, and what it needs from others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.models.capabilities import Capabilities
from worker.engines.base import OnLoad, PooledEngine, Sizes


class ModelLoader(Protocol):
    """Finds and loads models. It does not know which ones are in memory."""

    @property
    def default_model(self) -> str: ...

    def capabilities(self, model: str) -> Capabilities:
        """Raises ModelNotFound and ModelUnavailable."""
        ...

    def revision(self, model: str) -> str | None:
        """Raises ModelNotFound."""
        ...

    def expected_sizes(self, model: str) -> Sizes:
        """Memory that a model will take, as measured before or by its files. Parts in memory have their usual keys."""
        ...

    def load(self, model: str, on_load: OnLoad) -> PooledEngine:
        """Raises OutOfMemory, and ModelUnavailable with the reason."""
        ...


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
    present = {part for model in models for part in model.sizes}
    return sum(size for part, size in sizes.items() if part not in present)


def total_bytes(models: Iterable[HeldModel]) -> int:
    """Bytes of all parts; shared ones count once."""
    return sum({part: size for model in models for part, size in model.sizes.items()}.values())


@dataclass(frozen=True)
class Load:
    """A load in progress."""

    model: str
    bytes_done: int
    bytes_total: int


class PoolListener(Protocol):
    """Is notified of changes, on the thread that makes them. That thread holds at most the lock of loading."""

    def changed(self, models: Sequence[HeldModel], load: Load | None) -> None: ...

    def loaded(self, model: HeldModel, seconds: float) -> None: ...

    def evicted(self, model: str) -> None: ...
