"""Models as the web UI's checkpoints: with a title that ends in a short hash."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from api.models.offered import OfferedModels
from api.services import Services
from shared.errors import ModelNotFound
from shared.models.catalogue import ModelEntry

#: Endings of files, which some clients add to names.
_ENDINGS = (".safetensors", ".ckpt")
#: The end of a title. Clients keep titles, also of files that have changed since and of another service.
_HASH = re.compile(r"\s*\[[0-9a-f]{8,64}\]$")
#: Names of the default model.
_DEFAULTS = frozenset({"", "default"})


@dataclass(frozen=True)
class Checkpoint:
    entry: ModelEntry

    @property
    def name(self) -> str:
        return self.entry.name

    @cached_property
    def hash(self) -> str:
        """Changes with the name and with the files."""
        return sha256(f"{self.name} {self.entry.revision or ''}".encode()).hexdigest()[:10]

    @property
    def title(self) -> str:
        return f"{self.name} [{self.hash}]"


@dataclass(frozen=True)
class Checkpoints:
    models: OfferedModels
    aliases: Mapping[str, str]

    @classmethod
    async def read(cls, services: Services) -> "Checkpoints":
        """Raises StoreUnavailable."""
        return cls(await services.models(), services.settings.model_aliases)

    def find(self, text: str) -> Checkpoint | None:
        """The model with this title, name or hash; None for the default one. Raises ModelNotFound.

        As in the web UI, the hash in a title does not matter if the name is known.
        """
        text = text.strip()
        text = self.aliases.get(text, text)
        if text in _DEFAULTS:
            return None
        name = _HASH.sub("", text)
        for ending in _ENDINGS:
            name = name.removesuffix(ending)
        found = self._by_text.get(text.casefold()) or self._by_text.get(name.casefold())
        if found is None:
            raise ModelNotFound(self.models.catalogue.near(name))
        return found

    @property
    def default(self) -> Checkpoint | None:
        """None while no worker has reported its model."""
        return Checkpoint(self.models.default) if self.models.default else None

    def __iter__(self) -> Iterator[Checkpoint]:
        """Models that make images from a prompt alone."""
        for one in self._all:
            if one.entry.capabilities is None or "image" not in one.entry.capabilities.requires:
                yield one

    @cached_property
    def _all(self) -> tuple[Checkpoint, ...]:
        return tuple(Checkpoint(model.entry) for model in self.models.image_models)

    @cached_property
    def _by_text(self) -> dict[str, Checkpoint]:
        """Names take precedence over titles and hashes."""
        texts = {text: one for one in self._all for text in (one.hash, one.title.casefold())}
        return texts | {one.name.casefold(): one for one in self._all}
