"""What the catalogue says about a model on disk."""

from dataclasses import dataclass
from enum import StrEnum

from worker.models.local_model import LocalModel


class DiskState(StrEnum):
    AVAILABLE = "available"
    DOWNLOADING = "downloading"
    """Also files that are being copied."""
    MISSING = "missing"
    """Something has to be added first."""
    BROKEN = "broken"


@dataclass(frozen=True)
class CatalogueModel:
    name: str
    state: DiskState
    reason: str | None = None
    """One sentence, unless the model is available."""
    size_bytes: int = 0
    licence: str | None = None
    commercial_use: bool | None = None
    """None where the licence is unknown or has conditions."""
    title: str | None = None
    trigger_words: tuple[str, ...] = ()
    setting: str | None = None
    """The setting that names the model."""
    model: LocalModel | None = None
    """None unless the model is available."""
    bytes_done: int | None = None
    """Of a download; `size_bytes` is its total."""
