"""The names that clients of other protocols use for models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.intake.submissions import Translation
from api.models.offered import OfferedModels
from api.services import Services
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

    def owners(self) -> dict[str, str]:
        """The backends of the models that make images, then `alias` for each of their other names."""
        models = {model.entry.name: str(model.entry.backend) for model in self.models.image_models}
        return models | {alias: "alias" for alias in self.aliases if alias not in models}

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
            fields["scheduler"], warnings = chosen
            translation.warnings.extend(warnings)
