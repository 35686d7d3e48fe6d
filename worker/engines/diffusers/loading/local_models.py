"""The models on this machine: what each can do, and loading them."""

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from shared.errors import ImagegenError, LicenceForbidden, ModelNotFound, ModelUnavailable
from shared.jobs.types import Backend
from shared.models.capabilities import Capabilities
from shared.models.catalogue import ModelEntry, ModelState
from worker.engines.base import OnLoad, Sizes
from worker.engines.diffusers.capabilities import AddedFiles, capabilities_of
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.loading.load_progress import files_to_read, load_progress
from worker.engines.diffusers.memory.devices import dtype_name, precision_of
from worker.engines.diffusers.memory.errors import reported_out_of_memory
from worker.engines.diffusers.memory.quantization import part_size
from worker.engines.diffusers.memory.shared_parts import SharedParts
from worker.engines.diffusers.options import DiffusersOptions
from worker.engines.held_models import Inspected
from worker.models.catalogue import Catalogue, CatalogueModel
from worker.models.checkpoints.header import ModelSpec
from worker.models.local_model import LocalModel

logger = logging.getLogger(__name__)

#: How long one scan may look into models that it does not know yet. The others follow in the next scans.
INSPECTION_SECONDS = 0.5


@dataclass
class LocalModels:
    """A ModelLoader. Thread-safe: one thread scans while another one loads."""

    catalogue: Catalogue
    default: LocalModel
    options: DiffusersOptions
    backend: Backend
    measured_bytes: Callable[[str], int | None] = lambda _: None
    """The memory that a model took when it was loaded before."""
    commercial_only: bool = False
    shared: SharedParts = field(init=False)
    _default_entry: CatalogueModel = field(init=False)
    _found: Mapping[str, CatalogueModel] = field(init=False)
    _known: dict[str, Inspected] = field(default_factory=dict)
    _added: AddedFiles = field(init=False)

    def __post_init__(self) -> None:
        self.shared = SharedParts(self.options.data_dir)
        self._default_entry = CatalogueModel.available(self.default, ModelSpec())
        self._find()

    @property
    def default_model(self) -> str:
        return self.default.name

    def capabilities(self, model: str) -> Capabilities:
        capabilities = self._inspected(model).require(model)
        if self.commercial_only and not self._found[model].commercial_use:
            raise LicenceForbidden
        return self._added.for_model(capabilities)

    def revision(self, model: str) -> str | None:
        return self._local(model).revision or None

    def expected_sizes(self, model: str) -> Sizes:
        local = self._local(model)
        dtype = dtype_name(precision_of(local, self.options))
        total = self.measured_bytes(model) or sum(files_to_read(local, dtype).values())
        present: dict[Hashable, int] = {
            id(part): part_size(part) for part in self.shared.find_all(local, dtype).values()
        }
        return {**present, model: max(0, total - sum(present.values()))}

    def load(self, model: str, on_load: OnLoad) -> DiffusersEngine:
        local = self._local(model)
        dtype = dtype_name(precision_of(local, self.options))
        files = files_to_read(local, dtype, self.shared.find_all(local, dtype))
        with load_progress(files, on_load), reported_out_of_memory():
            return DiffusersEngine.load(local, self.options, self.shared)

    def scan(self) -> Mapping[str, ModelEntry]:
        found = self._find()
        self._known = {name: known for name, known in self._known.items() if name in found}
        end = time.monotonic() + INSPECTION_SECONDS
        for name, entry in found.items():
            if entry.model is not None and time.monotonic() < end:
                self._inspected(name)
        return {name: self._entry(entry, self._known.get(name)) for name, entry in found.items()}

    def _find(self) -> Mapping[str, CatalogueModel]:
        found, name = dict(self.catalogue.scan()), self.default.name
        if name not in found or found[name].model is None:
            # It is offered even if its folder is not found again: it may be in memory already.
            found[name] = self._default_entry
        self._found, self._added = found, AddedFiles.found(self.options)
        return found

    def _local(self, model: str) -> LocalModel:
        entry = self._found.get(model)
        if entry is None:
            raise ModelNotFound
        if entry.model is None:
            raise ModelUnavailable(f"The model {model} is {entry.state}: {entry.reason}")
        return entry.model

    def _inspected(self, name: str) -> Inspected:
        model = self._local(name)
        known = self._known.get(name)
        if known is None or known.revision != model.revision:
            known = self._known[name] = _inspect(model, self.options)
        return known

    def _entry(self, entry: CatalogueModel, known: Inspected | None) -> ModelEntry:
        is_unusable = known is not None and known.capabilities is None
        return ModelEntry(
            name=entry.name,
            backend=self.backend,
            state=ModelState.BROKEN if is_unusable else entry.state,
            reason=known.reason if known is not None and is_unusable else entry.reason,
            title=entry.title,
            family=entry.family,
            revision=(entry.model.revision or None) if entry.model else None,
            bytes=entry.size_bytes or None,
            licence=entry.licence,
            commercial_use=entry.commercial_use,
            trigger_words=entry.trigger_words,
            capabilities=self._added.for_model(known.capabilities) if known and known.capabilities else None,
        )


def _inspect(model: LocalModel, options: DiffusersOptions) -> Inspected:
    try:
        return Inspected(model.revision, capabilities_of(model, options))
    except ImagegenError as error:
        return Inspected(model.revision, None, error.detail)
    except Exception:
        # Configurations are files of strangers: whatever is wrong with one must not hide the other models.
        logger.exception("%s cannot be inspected", model.name)
        return Inspected(
            model.revision, None, "Its configuration cannot be understood; the log of the worker says why."
        )
