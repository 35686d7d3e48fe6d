"""The names that clients of other protocols use for models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.models.offered import OfferedModels
from api.services import Services

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
