"""The names that requests may use for models, and the models that they stand for."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from api.services import Services
from shared.errors import ModelNotFound
from shared.jobs.types import Backend
from shared.workers.records import Fleet

DEFAULT = "default"
#: Names that clients of OpenAI offer and nothing else.
OPENAI_ALIASES = (
    "dall-e-2",
    "dall-e-3",
    "gpt-image-1",
    "gpt-image-1-mini",
    "gpt-image-1.5",
    "gpt-image-2",
    "chatgpt-image-latest",
)
#: Names that an error suggests.
MAX_SUGGESTIONS = 5


@dataclass(frozen=True)
class NamedModel:
    """A name of a model, as lists show it."""

    name: str
    owner: str
    """The backend that runs it, or `alias`."""


@dataclass(frozen=True)
class ModelNames:
    """All names, with the fields of a request that choose the model."""

    models: Mapping[str, dict[str, Any]]
    aliases: Mapping[str, str]

    @classmethod
    async def read(cls, services: Services) -> "ModelNames":
        """Raises StoreUnavailable."""
        fleet = await services.fleet_cache.get()
        aliases = dict.fromkeys(OPENAI_ALIASES, DEFAULT) | services.settings.model_aliases
        return cls(_models(services, fleet), aliases)

    def fields(self, name: object) -> dict[str, Any]:
        """The fields of a request for this model; none for the default one. Raises ModelNotFound."""
        if not isinstance(name, str) or not name:
            return {}
        target = self.aliases.get(name, name)
        if target == DEFAULT:
            return {}
        if target in self.models:
            return self.models[target]
        raise ModelNotFound(self._unknown(name))

    def list(self) -> tuple[NamedModel, ...]:
        """The models, then their other names."""
        models = [NamedModel(name, str(fields["backend"])) for name, fields in self.models.items()]
        return (*models, *(NamedModel(alias, "alias") for alias in self.aliases if alias not in self.models))

    def _unknown(self, name: str) -> str:
        known = [*self.models, *self.aliases]
        near = get_close_matches(name, known, MAX_SUGGESTIONS, 0.5) or list(self.models)[:MAX_SUGGESTIONS]
        hint = f"; perhaps you mean {', '.join(near)}" if near else ""
        return f"No model has this name{hint}. GET /v1/models lists all."


def _models(services: Services, fleet: Fleet) -> dict[str, dict[str, Any]]:
    """The models of all backends, those of the default backend first."""
    default = services.settings.effective_default_backend
    found: dict[str, dict[str, Any]] = {}
    for backend in sorted(Backend, key=lambda backend: backend is not default):
        capabilities = services.capabilities(fleet, backend)
        if capabilities is None or not services.is_offered(fleet, backend):
            continue
        found.setdefault(capabilities.model, {"backend": backend})
        for choice in capabilities.choices:
            found.setdefault(choice.model, {"backend": backend, "bfl_model": choice.model})
    return found
