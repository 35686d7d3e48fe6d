"""The models that a worker holds in memory: loaded on demand, and evicted when another one needs the room."""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TypeVar

from shared.errors import ImagegenError, JobFailure, ModelUnavailable, OutOfMemory, RequestError
from shared.jobs.job import ModelLoad
from shared.models.capabilities import Capabilities
from worker.engines.base import Engine, OnLoad, PooledEngine, Sizes
from worker.engines.held_models import HeldModel, ModelLoader, PoolListener, added_bytes, parts_of, total_bytes
from worker.engines.model_memory import MemoryBudget

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: How long a failed load is not tried again, unless the model's files change.
RETRY_SECONDS = 60.0


@dataclass
class LoadedModels:
    """Thread-safe: one thread renders, another one may load, unload and pin."""

    loader: ModelLoader
    budget: MemoryBudget
    listener: PoolListener
    keep_alive_seconds: float = -1
    """Models that are unused for this long are evicted; -1 keeps them until their memory is needed."""
    clock: Callable[[], float] = time.monotonic
    pinned: Set[str] = frozenset()
    """Models that are never evicted."""
    guard: Callable[[str, str | None], AbstractContextManager[None]] = lambda *_: nullcontext()
    """Surrounds the load of each model but the default one, by its revision. May raise ModelUnavailable."""
    _models: dict[str, HeldModel] = field(default_factory=dict)
    _failures: dict[tuple[str, str | None], tuple[float, ImagegenError]] = field(default_factory=dict)
    _changing: threading.RLock = field(default_factory=threading.RLock)
    """Held while models are loaded or moved: libraries patch globals meanwhile, and memory is freed once."""
    _state: threading.Lock = field(default_factory=threading.Lock)

    @property
    def default_model(self) -> str:
        return self.loader.default_model

    @property
    def loaded(self) -> Set[str]:
        return frozenset(self._models)

    @property
    def models(self) -> Sequence[HeldModel]:
        """The most recently used first."""
        with self._state:
            return sorted(self._models.values(), key=lambda held: -held.used_at)

    def capabilities(self, model: str) -> Capabilities:
        return self.loader.capabilities(model)

    def revision(self, model: str) -> str | None:
        return self.loader.revision(model)

    @contextmanager
    def use(self, model: str, on_load: OnLoad = lambda *_: None) -> Iterator[Engine]:
        held = self._acquire(model, on_load)
        try:
            yield held.engine
        finally:
            self._update(model, users=-1)

    def load(self, model: str) -> None:
        """Load a model that no job needs yet. Raises what `use` raises."""
        with self.use(model):
            pass

    def unload(self, model: str) -> bool:
        """Evict a model now. False if it is busy, pinned or not in memory."""
        with self._changing:
            held = self._models.get(model)
            if held is None or held.users or model in self.pinned:
                return False
            self._evict(held)
            self._tell()
            return True

    def expire(self) -> None:
        """Evict models that were not used for the keep-alive time. Waits for no load."""
        if self.keep_alive_seconds < 0 or not self._changing.acquire(blocking=False):
            return
        try:
            oldest = self.clock() - self.keep_alive_seconds
            idle = [held for held in self._evictable() if held.used_at <= oldest]
            for held in idle:
                self._evict(held)
            if idle:
                self._tell()
        finally:
            self._changing.release()

    def _acquire(self, model: str, on_load: OnLoad) -> HeldModel:
        with self._changing:
            revision = self.loader.revision(model)
            held = self._models.get(model)
            if held is not None and held.revision != revision and not held.users:
                # Its files were replaced.
                self._evict(held)
                held = None
            if held is None:
                held = self._load(model, revision, on_load)
            elif not held.is_on_device:
                held = self._move_to_device(held)
            return self._update(model, users=1)

    def _load(self, model: str, revision: str | None, on_load: OnLoad) -> HeldModel:
        failed_at, failure = self._failures.get((model, revision), (0.0, None))
        if failure is not None and self.clock() < failed_at + RETRY_SECONDS:
            raise failure
        begin = self.clock()

        def report(done: int, total: int) -> None:
            self.listener.changed(self.models, ModelLoad(model=model, bytes_done=done, bytes_total=total))
            on_load(done, total)

        try:
            engine = self._load_engine(model, revision, report)
        except Exception as error:
            failure = _failure(model, error)
            _clear_frames(error)
            self._failures[model, revision] = self.clock(), failure
            self._tell()
            raise failure from error
        self._failures.pop((model, revision), None)
        held = self._put(HeldModel(model, engine, revision, engine.sizes, used_at=self.clock()))
        # How much it really takes is known only now.
        self._make_room(model, {})
        seconds, size = self.clock() - begin, held.size_bytes
        logger.info("%s is loaded after %.1f s (%.1f GB)", model, seconds, size / 1e9)
        self.listener.loaded(held, seconds)
        self._tell()
        return held

    def _load_engine(self, model: str, revision: str | None, on_load: OnLoad) -> PooledEngine:
        expected = self.loader.expected_sizes(model)
        on_load(0, sum(expected.values()))
        missing = self._make_room(model, expected)
        if missing > 0 and self.budget.is_strict:
            raise ModelUnavailable(f"The model {model} needs {missing / 1e9:.1f} GB more memory than can be freed.")
        # Without its default model the worker does not start, and its supervisor limits the retries.
        with nullcontext() if model == self.default_model else self.guard(model, revision):
            return self._evicting_others(model, lambda: self.loader.load(model, on_load))

    def _evicting_others(self, model: str, action: Callable[[], T]) -> T:
        """Repeat the action, and evict one other model after the other, while it runs out of memory."""
        while True:
            try:
                return action()
            except (OutOfMemory, MemoryError) as error:
                _clear_frames(error)
                others = self._evictable(besides=model)
                if not others:
                    raise ModelUnavailable(f"The model {model} needs more memory than is available.") from error
                self._evict(others[-1])
                logger.warning("out of memory while loading %s; trying again with fewer models", model)

    def _move_to_device(self, held: HeldModel) -> HeldModel:
        self._make_room(held.name, held.sizes)
        try:
            self._evicting_others(held.name, held.engine.move_to_device)
        except ModelUnavailable:
            self._evict(held)
            raise
        held = self._put(replace(held, is_on_device=True))
        self._tell()
        return held

    def _make_room(self, model: str, needed: Sizes) -> int:
        """Free memory for these parts of a model. Returns the bytes that are still missing."""
        while (missing := self._missing_bytes(needed)) > 0:
            others = [held for held in self._evictable(besides=model) if held.is_on_device]
            if not others:
                break
            self._leave_device(others[-1])
        return missing

    def _leave_device(self, held: HeldModel) -> None:
        """Move a model to main memory, or evict it if there is no room."""
        others = self._on_device(besides=held)
        if not self._has_main_memory(added_bytes(held.sizes, others)):
            self._evict(held)
            return
        held.engine.move_to_main_memory(parts_of(others))
        self._put(replace(held, is_on_device=False))
        logger.info("%s waits in main memory", held.name)

    def _has_main_memory(self, size: int) -> bool:
        """Whether main memory has room, after evicting models that wait there if necessary."""
        while not self.budget.has_main_memory(size):
            waiting = [held for held in self._evictable() if not held.is_on_device]
            if not waiting:
                return False
            self._evict(waiting[-1])
        return True

    def _missing_bytes(self, needed: Sizes) -> int:
        on_device = self._on_device()
        return self.budget.missing_bytes(added_bytes(needed, on_device), total_bytes(on_device))

    def _on_device(self, besides: HeldModel | None = None) -> list[HeldModel]:
        return [held for held in self.models if held.is_on_device and held is not besides]

    def _evictable(self, besides: str | None = None) -> Sequence[HeldModel]:
        """The most recently used first."""
        return [held for held in self.models if not held.users and held.name not in (*self.pinned, besides)]

    def _evict(self, held: HeldModel) -> None:
        # It may have been evicted already, with a model that shares its parts.
        if held.name not in self._models:
            return
        inherited = self._inherited_parts(held)
        with self._state:
            del self._models[held.name]
        held.engine.close(inherited)
        logger.info("%s is no longer in memory", held.name)
        self.listener.evicted(held.name)

    def _inherited_parts(self, held: HeldModel) -> Set[Hashable]:
        """What only models in main memory keep of one that is evicted. They leave, too, if there is no room for it."""
        leaving = held.sizes.keys() - parts_of(self._on_device(besides=held))
        waiting = [one for one in self.models if not one.is_on_device and one is not held]
        heirs = [one for one in waiting if one.sizes.keys() & leaving]
        inherited = leaving & parts_of(heirs)
        size = sum(held.sizes[part] for part in inherited)
        if size and held.is_on_device and not self.budget.has_main_memory(size):
            for one in heirs:
                if one.name not in self.pinned:
                    self._evict(one)
            inherited &= parts_of(one for one in heirs if one.name in self._models)
        return inherited

    def _put(self, held: HeldModel) -> HeldModel:
        with self._state:
            self._models[held.name] = held
        return held

    def _update(self, model: str, users: int) -> HeldModel:
        with self._state:
            held = self._models[model]
            self._models[model] = held = replace(held, users=held.users + users, used_at=self.clock())
            return held

    def _tell(self) -> None:
        self.listener.changed(self.models, None)


def _failure(model: str, error: Exception) -> ImagegenError:
    """The error of jobs whose model cannot be loaded."""
    if isinstance(error, RequestError | JobFailure):
        logger.warning("%s cannot be loaded: %s", model, error.detail)
        return error
    if isinstance(error, ImagegenError):
        logger.warning("%s cannot be loaded: %s", model, error.detail)
        return ModelUnavailable(f"The model {model} cannot be loaded: {error.detail}")
    logger.error("%s cannot be loaded", model, exc_info=error)
    return ModelUnavailable(f"The model {model} cannot be loaded; the log of the worker says why.")


def _clear_frames(error: BaseException | None) -> None:
    """Release the weights that the frames of a traceback hold, because the error itself is kept."""
    seen = set[int]()
    # A chain of causes may be a circle.
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
