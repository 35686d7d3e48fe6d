"""The names that clients of other protocols use for models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.intake.submissions import Translation
from api.models.offered import OfferedModels
from api.services import Services
from shared.errors import ModelNotFound
from shared.jobs.web_ui.samplers import find_scheduler
from shared.models.capabilities import Capabilities

#: Stands for the default model, also in SD_MODEL_ALIASES.
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


@dataclass(frozen=True)
class NamedModel:
    """A name of a model, as lists show it."""

    name: str
    owner: str
    """The backend that runs it, or `alias`."""


@dataclass(frozen=True)
class ModelNames:
    """The models of this service, and the other names that stand for them."""

    models: OfferedModels
    aliases: Mapping[str, str]

    @classmethod
    async def read(cls, services: Services) -> "ModelNames":
        """Raises StoreUnavailable."""
        aliases = dict.fromkeys(OPENAI_ALIASES, DEFAULT) | services.settings.model_aliases
        return cls(await services.models(), aliases)

    def fields(self, name: object) -> dict[str, Any]:
        """The fields of a request for this model; none for the default one. Admission refuses unknown models."""
        if not isinstance(name, str) or not name:
            return {}
        target = self.aliases.get(name, name)
        return {} if target == DEFAULT else {"model": target}

    def capabilities(self, fields: Mapping[str, Any]) -> Capabilities | None:
        """Those of the model that these fields choose; None if they are unknown."""
        if not (name := fields.get("model")):
            return self.models.default.capabilities if self.models.default else None
        return next((model.entry.capabilities for model in self.models if model.entry.name == name), None)

    def set_scheduler(self, translation: Translation) -> None:
        """Replace the name that another service has for a scheduler. Admission refuses unknown names."""
        fields, capabilities = translation.fields, self.capabilities(translation.fields)
        name = fields.get("scheduler")
        if not isinstance(name, str) or capabilities is None or name in capabilities.schedulers:
            return
        if (chosen := find_scheduler(name, capabilities.schedulers)) is not None:
            translation.add({"scheduler": chosen.scheduler}, chosen.warnings)

    def list(self) -> tuple[NamedModel, ...]:
        """The models that make images, then their other names."""
        models = [NamedModel(model.entry.name, str(model.entry.backend)) for model in self.models.image_models]
        names = {model.name for model in models}
        return (*models, *(NamedModel(alias, "alias") for alias in self.aliases if alias not in names))

    def find(self, name: str) -> NamedModel:
        """Raises ModelNotFound."""
        for model in self.list():
            if model.name == name:
                return model
        raise ModelNotFound(self.models.catalogue.near(name))
