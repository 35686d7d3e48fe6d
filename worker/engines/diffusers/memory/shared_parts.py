"""Parts that several loaded models have in common, such as text encoders: read and held once."""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from shared.errors import ConfigurationError
from worker.models.contents.digests import Digests
from worker.models.contents.part_sources import PartSource, source_of
from worker.models.local_model import LocalModel


@dataclass(frozen=True)
class _Held:
    source: PartSource
    part: "weakref.ref[Any]"
    dtype: torch.dtype
    """The precision in which it can be shared: while a model has converted it, no other model may use it."""


class SharedParts:
    """The parts of all models of one worker, which load with the same options. Nothing here keeps a part alive.

    Not thread-safe: the pool loads and moves one model at a time.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` keeps the hashes of files."""
        self._digests = Digests(folder)
        self._held: list[_Held] = []

    def find(self, source: PartSource) -> Any | None:
        for held in self._held:
            part = held.part()
            if part is not None and part.dtype is held.dtype and held.source.equals(source, self._digests):
                return part
        return None

    def find_all(self, model: LocalModel, dtype: str) -> dict[str, Any]:
        """The parts of a model that are in memory before it is loaded."""
        sources = {name: _source(model, name, dtype) for name in model.parts}
        found = {name: self.find(source) for name, source in sources.items() if source}
        return {name: part for name, part in found.items() if part is not None}

    def offer(self, parts: Iterable[tuple[PartSource, Any]]) -> None:
        new = [_Held(source, weakref.ref(part), part.dtype) for source, part in parts]
        replaced = [None, *(held.part() for held in new)]
        self._held = [held for held in self._held if held.part() not in replaced] + new


@dataclass
class PartLoading:
    """The parts of one model while it is loaded."""

    model: LocalModel
    dtype: str
    shared: SharedParts
    _taken: dict[str, tuple[Any, torch.device]] = field(default_factory=dict)
    """Parts that others have as well, and where they were."""
    _new: dict[str, PartSource] = field(default_factory=dict)

    def get(self, name: str, load: Callable[[], Any]) -> Any:
        """A part that is in memory already, or else a new one. Raises what `load` raises."""
        source = _source(self.model, name, self.dtype)
        if source is None:
            return load()
        if (part := self.shared.find(source)) is not None:
            self._taken[name] = part, next(part.parameters()).device
            return part
        self._new[name] = source
        return load()

    def separate(self, pipe: Any) -> None:
        """Copy the shared parts of a pipeline that will change or move them."""
        for name in self._taken:
            setattr(pipe, name, _copied(getattr(pipe, name)))
        self._taken, self._new = {}, {}

    def finish(self, pipe: Any) -> None:
        """Share the parts with other models. Call this once they are on their device."""
        self.shared.offer((source, getattr(pipe, name)) for name, source in self._new.items())

    @contextmanager
    def put_back_on_failure(self) -> Iterator[None]:
        """If the block fails, move shared parts to where they were: their models may wait in main memory."""
        try:
            yield
        except Exception:
            for part, device in self._taken.values():
                part.to(device)
            raise


def parts_of(pipe: Any) -> dict[str, torch.nn.Module]:
    """The parts with weights, by name."""
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def _source(model: LocalModel, name: str, dtype: str) -> PartSource | None:
    """None also for unreadable files: loading them reports the error."""
    with suppress(OSError, ConfigurationError):
        return source_of(model, name, dtype)
    return None


def _copied(part: torch.nn.Module) -> torch.nn.Module:
    """A copy in main memory that takes no memory on the device."""
    weights = {id(one): torch.nn.Parameter(_in_main_memory(one), one.requires_grad) for one in part.parameters()}
    return copy.deepcopy(part, weights | {id(one): _in_main_memory(one) for one in part.buffers()})


def _in_main_memory(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)
