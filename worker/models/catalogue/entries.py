"""What the catalogue says about a model on disk."""

from dataclasses import dataclass
from typing import Self

from shared.models.catalogue import ModelState
from worker.models.checkpoints.header import ModelSpec
from worker.models.families import family_of
from worker.models.hub.licences import commercial_use_of
from worker.models.local_model import LocalModel


@dataclass(frozen=True)
class CatalogueModel:
    name: str
    state: ModelState
    reason: str | None = None
    """One sentence, unless the model is available."""
    size_bytes: int = 0
    family: str | None = None
    """Its key."""
    licence: str | None = None
    commercial_use: bool | None = None
    """None where the licence is unknown or has conditions."""
    title: str | None = None
    trigger_words: tuple[str, ...] = ()
    setting: str | None = None
    """The setting that names the model."""
    model: LocalModel | None = None
    """None unless the model is available."""

    @classmethod
    def available(cls, model: LocalModel, spec: ModelSpec, size_bytes: int = 0) -> Self:
        """With what the operator says of it, or else its header or card (`spec`), or else its family.

        Raises ConfigurationError for configurations that cannot be read.
        """
        overrides, family = model.overrides, family_of(model)
        licence = overrides.licence or spec.licence or family.licence
        permitted = commercial_use_of(licence) if overrides.commercial_use is None else overrides.commercial_use
        return cls(
            name=model.name,
            state=ModelState.AVAILABLE,
            size_bytes=size_bytes,
            family=family.key,
            licence=licence,
            commercial_use=permitted,
            title=overrides.title or spec.title,
            trigger_words=overrides.trigger_words or spec.trigger_words,
            model=model,
        )
