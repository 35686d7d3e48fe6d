"""The catalogue as workers publish it, kept in this process."""

import asyncio
import itertools
from dataclasses import dataclass, field

from api.models.offered import OfferedModels, known_models
from shared.jobs.types import Backend
from shared.models.catalogue import Catalogue, ModelEntry
from shared.redis.store import AsyncStore
from shared.settings.api import ApiSettings
from shared.workers.models import READ_LIMIT, ModelRecords
from shared.workers.records import Fleet


@dataclass
class _Source:
    """Entries of one source, up to a version."""

    version: int = 0
    cursor: tuple[int, str] = (0, "")
    entries: dict[str, ModelEntry] = field(default_factory=dict)


class CatalogueCache:
    """Reads only what changed, and builds the catalogue only when something did: it may hold thousands of models."""

    def __init__(self, settings: ApiSettings, store: AsyncStore) -> None:
        self._settings = settings
        self._store = store
        self._records = ModelRecords(settings.redis_prefix)
        self._sources: dict[tuple[Backend, str], _Source] = {}
        self._published: tuple[ModelEntry, ...] = ()
        self._models: OfferedModels | None = None
        self._lock = asyncio.Lock()

    async def get(self, fleet: Fleet) -> OfferedModels:
        """Raises StoreUnavailable."""
        if self._models is not None and self._models.fleet is fleet:
            return self._models
        async with self._lock:
            if self._models is None or self._models.fleet is not fleet:
                await self._refresh(fleet)
                self._models = self._with_known(fleet, self._models)
            return self._models

    def _with_known(self, fleet: Fleet, before: OfferedModels | None) -> OfferedModels:
        entries = (*self._published, *known_models(self._settings, fleet, self._published))
        if before is not None and before.catalogue.entries == entries:
            return OfferedModels(self._settings, fleet, before.catalogue)
        return OfferedModels(self._settings, fleet, Catalogue(entries))

    async def _refresh(self, fleet: Fleet) -> None:
        versions = {
            (backend, source): version
            for backend, sources in fleet.model_sources.items()
            for source, version in sources.items()
        }
        is_changed = self._sources.keys() != versions.keys()
        self._sources = {key: self._sources.get(key, _Source()) for key in versions}
        for (backend, name), version in versions.items():
            source = self._sources[backend, name]
            if source.version != version:
                is_changed = True
                await self._read(backend, name, source, version)
        if is_changed:
            self._published = _merged(self._sources)

    async def _read(self, backend: Backend, name: str, source: _Source, version: int) -> None:
        if version < source.version:
            # The store has lost it and counts anew.
            source.cursor, source.entries = (0, ""), {}
        while True:
            changes = await self._store.run(self._records.read_changes(backend, name, *source.cursor))
            for change in changes:
                source.cursor = change.version, change.name
                if change.entry is None:
                    source.entries.pop(change.name, None)
                else:
                    source.entries[change.name] = change.entry
            if len(changes) < READ_LIMIT:
                source.version = version
                return


def _merged(sources: dict[tuple[Backend, str], _Source]) -> tuple[ModelEntry, ...]:
    """One entry for each backend and name: a usable one, if any source has it."""
    merged: dict[tuple[str, Backend], ModelEntry] = {}
    for entry in itertools.chain.from_iterable(source.entries.values() for source in sources.values()):
        known = merged.get((entry.name, entry.backend))
        if known is None or (entry.state.is_usable and not known.state.is_usable):
            merged[entry.name, entry.backend] = entry
    return tuple(merged[key] for key in sorted(merged))
