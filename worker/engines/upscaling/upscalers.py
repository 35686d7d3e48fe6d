"""The upscalers on this machine, beside the models that make images."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.models.capabilities import Capabilities
from shared.models.catalogue import ModelEntry, ModelState
from worker.engines.base import OnLoad, PooledEngine, Sizes
from worker.engines.held_models import Inspected, ModelLoader
from worker.engines.upscaling.engine import UpscalingEngine, upscaler_capabilities
from worker.engines.upscaling.network_files import scale_of
from worker.models.contents.fingerprint import revision_of
from worker.models.download_plans import file_size
from worker.models.sources import UPSCALE_STARTER, UPSCALERS_FOLDER

STARTER_NAME = "upscale-starter"
#: Limit of what a scan of the folder looks at.
MAX_FILES = 1000


@dataclass
class ModelsAndUpscalers:
    """A ModelLoader of the models of another one and of upscalers. Thread-safe if that one is."""

    models: ModelLoader
    model_dir: Path
    backend: Backend
    device: str
    dtype: str
    _files: Mapping[str, Path] = field(default_factory=lambda: {STARTER_NAME: UPSCALE_STARTER})

    @property
    def default_model(self) -> str:
        return self.models.default_model

    def capabilities(self, model: str) -> Capabilities:
        if model not in self._files:
            return self.models.capabilities(model)
        return self._inspected(model).require(model)

    def revision(self, model: str) -> str | None:
        return revision_of(self._files[model]) if model in self._files else self.models.revision(model)

    def expected_sizes(self, model: str) -> Sizes:
        return (
            {model: file_size(self._files[model]) or 0} if model in self._files else self.models.expected_sizes(model)
        )

    def load(self, model: str, on_load: OnLoad) -> PooledEngine:
        if model not in self._files:
            return self.models.load(model, on_load)
        return UpscalingEngine.load(model, self._files[model], self.device, self.dtype)

    def scan(self) -> Mapping[str, ModelEntry]:
        folder = self.model_dir / UPSCALERS_FOLDER
        paths = sorted(folder.rglob("*.safetensors"))[:MAX_FILES] if folder.is_dir() else []
        found = {path.relative_to(self.model_dir).with_suffix("").as_posix(): path for path in paths}
        self._files = {STARTER_NAME: UPSCALE_STARTER, **found}
        return {**self.models.scan(), **{name: self._entry(name) for name in self._files}}

    def _inspected(self, name: str) -> Inspected:
        return _inspect(name, self._files[name], revision_of(self._files[name]))

    def _entry(self, name: str) -> ModelEntry:
        known, is_bundled = self._inspected(name), name == STARTER_NAME
        return ModelEntry(
            name=name,
            backend=self.backend,
            state=ModelState.AVAILABLE if known.capabilities else ModelState.BROKEN,
            reason=known.reason,
            family="upscaler",
            revision=known.revision,
            bytes=file_size(self._files[name]) or 0,
            licence="BSD-3-Clause" if is_bundled else None,
            commercial_use=True if is_bundled else None,
            capabilities=known.capabilities,
        )


@functools.lru_cache(maxsize=MAX_FILES + 1)
def _inspect(name: str, path: Path, revision: str) -> Inspected:
    """Cached until the file changes, which changes `revision`."""
    try:
        return Inspected(revision, upscaler_capabilities(name, scale_of(path)))
    except ConfigurationError as error:
        return Inspected(revision, None, error.detail)
