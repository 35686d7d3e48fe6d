"""What workers publish about models, and what they are asked to do with them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from shared.jobs.types import Backend, FrozenModel
from shared.models.catalogue import ModelEntry
from shared.observability.counters import EVICTIONS, LOAD
from shared.redis.keys import Keys
from shared.redis.store import Argument, Operation

#: How many changed entries one reading returns.
READ_LIMIT = 500
#: Models are published by sources, one for each machine and its folders. One whose last publication is older has no
#: living worker; it counts while no other one has.
SOURCE_LIFETIME_MS = 30_000
#: Accepted jobs wait so long for a source that has their model: its machine may start again.
SOURCE_RETURN_MS = 3_600_000
#: Commands are not for workers that return later.
COMMAND_LIFETIME_MS = 60_000
MAX_COMMANDS = 64
#: A model that ended its process so often while it was loaded is not loaded again for a time.
MAX_LOST_LOADS = 2
LOST_LOAD_MS = 600_000


class ModelAction(StrEnum):
    LOAD = "load"
    UNLOAD = "unload"


class ModelCommand(FrozenModel):
    action: ModelAction
    model: str


@dataclass(frozen=True)
class ChangedEntry:
    version: int
    name: str
    entry: ModelEntry | None
    """None if it was removed."""


class ModelRecords:
    """Operations on what is published about models."""

    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)

    def publish(
        self,
        backend: Backend,
        source: str,
        entries: Iterable[ModelEntry],
        removed: Iterable[str] = (),
        *,
        is_complete: bool,
    ) -> Operation[bool]:
        """Publish changes, or all entries. False if all must be published, because the store knows none."""
        rows = [(entry.name, entry.model_dump_json(exclude_defaults=True)) for entry in entries]
        args: list[Argument] = [source, "1" if is_complete else "", len(rows)]
        args += [*(part for row in rows for part in row), *removed]
        return Operation(
            "models/publish", [self._keys.model_sources(backend), *self._source(backend, source)], args, bool
        )

    def read_changes(
        self, backend: Backend, source: str, version: int, name: str
    ) -> Operation[tuple[ChangedEntry, ...]]:
        """Entries that changed after this one; at most READ_LIMIT."""

        def decode(reply: list[str]) -> tuple[ChangedEntry, ...]:
            rows = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
            return tuple(
                ChangedEntry(int(float(version)), name, ModelEntry.model_validate_json(text) if text else None)
                for version, name, text in rows
            )

        return Operation("models/read", self._source(backend, source), [version, name, READ_LIMIT], decode)

    def is_elsewhere(self, backend: Backend, source: str, model: str) -> Operation[bool]:
        """Whether a worker of another source has a model that can be used, or had it and may return."""
        args: list[Argument] = [model, source, self._keys.model_entries(backend, ""), SOURCE_RETURN_MS]
        return Operation("models/is_elsewhere", [self._keys.model_sources(backend)], args, bool)

    def record_load(self, backend: Backend, model: str, milliseconds: int, size_bytes: int) -> Operation[bool]:
        """Learn how long loading takes and how much memory the model needs."""
        args: list[Argument] = [model, milliseconds, size_bytes]
        args += [part for count in LOAD.observe(backend, milliseconds) for part in count]
        return Operation("models/record_load", [self._keys.load_stats(backend), self._keys.counts], args, bool)

    def read_size(self, backend: Backend, model: str) -> Operation[int | None]:
        """The memory that a model took when it was loaded last, in bytes; None if unknown."""
        keys = [self._keys.load_stats(backend)]
        return Operation("commands/run", keys, ["HGET", f"bytes {model}"], lambda reply: int(reply or 0) or None)

    def count_eviction(self, backend: Backend) -> Operation[bool]:
        return Operation("commands/run", [self._keys.counts], ["HINCRBY", *EVICTIONS.increment(backend)], bool)

    def begin_load(self, backend: Backend, model: str, revision: str, worker: str) -> Operation[bool]:
        """False if loading it has ended MAX_LOST_LOADS processes. Call `end_load` whatever else comes of it."""
        keys = [self._keys.unfinished_loads(backend, model, revision), self._keys.workers]
        return Operation("models/begin_load", keys, [worker, MAX_LOST_LOADS, LOST_LOAD_MS], bool)

    def end_load(self, backend: Backend, model: str, revision: str) -> Operation[bool]:
        """Loads that were lost before no longer count, whether this one succeeded or not."""
        return Operation("commands/run", [self._keys.unfinished_loads(backend, model, revision)], ["DEL"], bool)

    def send_command(self, workers: Iterable[str], command: ModelCommand) -> Operation[int]:
        """Ask workers, by their ids, to load or unload a model."""
        args: list[Argument] = [command.model_dump_json(), MAX_COMMANDS, COMMAND_LIFETIME_MS]
        return Operation("models/send_command", [self._keys.commands(worker) for worker in workers], args, int)

    def take_commands(
        self, backend: Backend, worker: str
    ) -> Operation[tuple[tuple[ModelCommand, ...], frozenset[str]]]:
        """The commands for a worker, each once, and the pinned models of its backend."""
        return Operation(
            "models/take_commands",
            [self._keys.commands(worker), self._keys.pinned_models(backend)],
            [],
            lambda reply: (tuple(map(ModelCommand.model_validate_json, reply[0])), frozenset(reply[1])),
        )

    def pin(self, backend: Backend, model: str, *, pinned: bool) -> Operation[bool]:
        """Keep a model in the memory of every worker that has it, or end that."""
        name = "SADD" if pinned else "SREM"
        return Operation("commands/run", [self._keys.pinned_models(backend)], [name, model], bool)

    def _source(self, backend: Backend, source: str) -> list[str]:
        return [self._keys.model_entries(backend, source), self._keys.model_versions(backend, source)]


def source_versions(flat: Sequence[str], now_ms: int) -> dict[str, int]:
    """The versions of the sources of living workers, by their names; else of the one that was published last."""
    found = {name: tuple(map(int, text.split())) for name, text in zip(flat[::2], flat[1::2], strict=True)}
    latest = max((at for _, at in found.values()), default=0)
    oldest = min(latest, now_ms - SOURCE_LIFETIME_MS)
    return {name: version for name, (version, at) in found.items() if at >= oldest}
