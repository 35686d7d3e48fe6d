"""What the service offers at one moment: its backends, their models, and which model a request gets."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from shared.errors import BackendUnavailable, LicenceForbidden, ModelNotFound, ModelUnavailable
from shared.jobs.job import ModelLoad
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend
from shared.models import bfl
from shared.models.capabilities import Capabilities
from shared.models.catalogue import Catalogue, ModelEntry, ModelState
from shared.settings.api import ApiSettings
from shared.workers.records import Fleet, ModelInMemory, WorkerRecord


@dataclass(frozen=True)
class ModelChoice:
    """The backend and the model of a request."""

    backend: Backend
    entry: ModelEntry | None
    """None while the backend's models are unknown; then its worker checks the request."""
    state: ModelState | None = None

    @property
    def capabilities(self) -> Capabilities | None:
        """Those of the chosen model."""
        return self.entry.capabilities if self.entry else None


@dataclass(frozen=True)
class OfferedModel:
    """A model as GET /api/models lists it: once, with all backends that have it."""

    entry: ModelEntry
    """The entry of the backend that runs requests with this model and no backend."""
    backends: tuple[Backend, ...]
    state: ModelState
    workers: tuple[WorkerRecord, ...]
    """The workers that have it in memory."""
    load: ModelLoad | None
    """Progress, while a worker loads it."""
    is_default: bool
    """Whether its backend uses it for requests that name no model."""

    is_pinned: bool

    @property
    def upscale(self) -> int | None:
        """How many times an upscaler enlarges; None for models that make images."""
        return self.entry.capabilities.scale if self.entry.capabilities else None

    @property
    def memory(self) -> ModelInMemory | None:
        """In the memory of the first worker that holds it."""
        held = (model for worker in self.workers for model in worker.models if model.name == self.entry.name)
        return next(held, None)


@dataclass(frozen=True, eq=False)
class OfferedModels:
    """Built for each reading of the fleet; the catalogue in it is built only when it changes."""

    settings: ApiSettings
    fleet: Fleet
    catalogue: Catalogue

    @cached_property
    def backends(self) -> tuple[Backend, ...]:
        """Backends that requests may use: the default one first, then as in SD_BACKENDS."""
        default, configured = self.settings.effective_default_backend, self.settings.backends
        ordered = dict.fromkeys((default, *configured, *Backend))
        return tuple(backend for backend in ordered if self._refusal(backend) is None)

    def choose(self, request: GenerationRequest) -> ModelChoice:
        """Find the backend and the model of a request.

        Raises BackendUnavailable, ModelNotFound and ModelUnavailable.
        """
        named = request.model, request.bfl_model, request.backend
        if named not in self._choices:
            self._choices[named] = self._choose(request)
        return self._choices[named]

    @cached_property
    def _choices(self) -> dict[tuple[str | None, str | None, Backend | None], ModelChoice]:
        """The choices that were made since the fleet was read."""
        return {}

    def _choose(self, request: GenerationRequest) -> ModelChoice:
        name = request.requested_model
        backend = request.backend or self._backend_with(name)
        if (refusal := self._refusal(backend)) is not None:
            raise BackendUnavailable(refusal)
        default = self.default_model(backend)
        if default is None:
            return ModelChoice(backend, None)
        if request.model is None and backend is not Backend.FLUX_API and not self.catalogue.find(name or "", backend):
            # A local backend ignores a `bfl_model` that it does not have, with a warning.
            name = None
        entry = self.catalogue.find(name or default, backend)
        if entry is None:
            if name is None:
                return ModelChoice(backend, None)
            raise ModelNotFound(self.catalogue.near(name))
        state = self.state(entry)
        # Jobs for a default model wait until its worker has it.
        if not state.is_usable and name is not None:
            raise ModelUnavailable(f"The model {entry.name} is {state}{f': {entry.reason}' if entry.reason else '.'}")
        self._require_licence(entry)
        return ModelChoice(backend, entry, state)

    def _require_licence(self, entry: ModelEntry) -> None:
        # Of a default model that its worker is still loading, nothing is known; the worker checks it.
        is_unknown = entry.state is ModelState.LOADING or not entry.state.is_usable
        if not self.settings.commercial_only or entry.commercial_use or is_unknown:
            return
        licence = f"its licence is {entry.licence}" if entry.licence else "its licence is unknown"
        raise LicenceForbidden(
            f"This service allows only models for commercial use (SD_COMMERCIAL_ONLY); of {entry.name}, {licence}."
        )

    def default_model(self, backend: Backend) -> str | None:
        """The model of requests that name none; None while no worker has reported it."""
        if (known := self.fleet.capabilities.get(backend)) is not None:
            return known.model
        return self.settings.bfl_default_model if backend is Backend.FLUX_API else None

    def state(self, entry: ModelEntry) -> ModelState:
        """With what its workers report."""
        if not entry.state.is_usable:
            return entry.state
        if self.fleet.holders_of(entry.backend, entry.name):
            return ModelState.LOADED
        is_loading = self.fleet.load_of(entry.backend, entry.name) is not None
        return ModelState.LOADING if is_loading else entry.state

    def find(self, name: str) -> OfferedModel:
        """Raises ModelNotFound."""
        entries = {backend: entry for backend in self.backends if (entry := self.catalogue.find(name, backend))}
        if not entries:
            raise ModelNotFound(self.catalogue.near(name))
        backend = self._backend_with(name)
        return OfferedModel(
            entries[backend],
            tuple(entries),
            self.state(entries[backend]),
            workers=tuple(worker for backend in entries for worker in self.fleet.holders_of(backend, name)),
            load=self.fleet.load_of(backend, name),
            is_default=self.default_model(backend) == name,
            is_pinned=name in self.fleet.pinned_models.get(backend, ()),
        )

    def __iter__(self) -> Iterator[OfferedModel]:
        """All models, in the order of the catalogue."""
        for name in self.catalogue.names:
            if any(self.catalogue.find(name, backend) for backend in self.backends):
                yield self.find(name)

    @property
    def image_models(self) -> Iterator[OfferedModel]:
        """Usable models that make images, and not only larger ones."""
        return (model for model in self if model.state.is_usable and not model.upscale)

    @property
    def upscalers(self) -> dict[str, int]:
        """How many times usable upscalers enlarge, by name."""
        return {model.entry.name: model.upscale for model in self if model.state.is_usable and model.upscale}

    @property
    def default(self) -> ModelEntry | None:
        """The model of requests that name none and no backend; None while no worker has reported it."""
        for backend in self.backends:
            if (name := self.default_model(backend)) and (entry := self.catalogue.find(name, backend)):
                return entry
        return None

    def _backend_with(self, name: str | None) -> Backend:
        """The backend of a request that names none: one whose default model it is, else the first that has it."""
        offering = [backend for backend in self.backends if name and self.catalogue.find(name, backend)]
        if name is not None and len(offering) > 1:
            offering.sort(key=lambda backend: self._rank(backend, name))
        return offering[0] if offering else self.settings.effective_default_backend

    def _rank(self, backend: Backend, name: str) -> tuple[bool, bool, bool]:
        """Backends with a living worker first, then the one whose default model it is, then those that hold it."""
        fleet = self.fleet
        is_default, is_held = self.default_model(backend) == name, bool(fleet.holders_of(backend, name))
        return not fleet.workers_of(backend), not is_default, not is_held

    def _refusal(self, backend: Backend) -> str | None:
        """Why requests may not use the backend; None if they may."""
        settings = self.settings
        if backend is Backend.NULL and not is_configured(settings, backend):
            return "The null backend is disabled; the operator can add it to SD_BACKENDS."
        if is_offered(settings, self.fleet, backend):
            return None
        if backend is Backend.FLUX_API and backend in settings.backends:
            return "flux-api has no API key; the operator can set SD_BFL_API_KEY."
        role = " (SD_DEFAULT_BACKEND)" if backend is settings.default_backend else ""
        return f"No worker serves {backend}{role}; this service has: {', '.join(settings.backends)}."


def is_configured(settings: ApiSettings, backend: Backend) -> bool:
    """Whether the settings enable the backend."""
    keyless = backend is Backend.FLUX_API and settings.bfl_api_key is None
    return backend in settings.backends and not keyless


def is_offered(settings: ApiSettings, fleet: Fleet, backend: Backend) -> bool:
    """Whether a worker serves the backend or may serve it again. Without its key the cloud is not offered."""
    was_served = backend in fleet.capabilities and backend is not Backend.FLUX_API
    return is_configured(settings, backend) or was_served or bool(fleet.workers_of(backend))


def known_models(settings: ApiSettings, fleet: Fleet, published: Iterable[ModelEntry]) -> Iterator[ModelEntry]:
    """Models that no worker publishes: those of the cloud, and default models that are being loaded at the start."""
    names = {(entry.backend, entry.name) for entry in published}
    known = dict(fleet.capabilities)
    if is_offered(settings, fleet, Backend.FLUX_API):
        known.setdefault(Backend.FLUX_API, bfl.capabilities(settings.bfl_default_model))
    for backend, model in known.items():
        for choice in model.choices or (model,):
            if (backend, choice.model) not in names:
                names.add((backend, choice.model))
                capabilities = choice.model_copy(update={"choices": ()})
                is_cloud = backend is Backend.FLUX_API or None
                yield ModelEntry(name=choice.model, backend=backend, capabilities=capabilities, commercial_use=is_cloud)
    for worker in fleet.workers:
        if (worker.backend, worker.model) not in names and worker.backend is not Backend.FLUX_API:
            names.add((worker.backend, worker.model))
            state = ModelState.DOWNLOADING if worker.download else ModelState.LOADING
            yield ModelEntry(name=worker.model, backend=worker.backend, state=state)
