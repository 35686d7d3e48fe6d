"""Where the steps leave their results for one another."""

from dataclasses import dataclass
from pathlib import Path

from .errors import StarterModelError


@dataclass(frozen=True)
class Folders:
    """No step overwrites what it read, so each can be run again by itself."""

    out: Path

    @property
    def autoencoder(self) -> Path:
        return self.out / "vae"

    @property
    def tokenizer(self) -> Path:
        return self.out / "tokenizer"

    @property
    def text_encoder(self) -> Path:
        return self.out / "text_encoder"

    @property
    def pipeline(self) -> Path:
        """The finished model, in float16."""
        return self.out / "pipeline"


MODEL_NAME = "starter"
"""Written into the configuration of each part, where the libraries would put the path it was read from."""


def existing(folder: Path, step: str) -> Path:
    """The folder itself; without this check the libraries would look for a missing one on the internet."""
    if not folder.is_dir():
        raise StarterModelError(f"{folder} is missing: run the step '{step}' first")
    return folder
