"""A complete model on this machine, described without loading its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import ConfigurationError
from worker.models.checkpoints.tensor_names import Role
from worker.models.overrides import NO_OVERRIDES, ModelOverrides
from worker.models.required_files import PIPELINE_INDEX, parts_of

MODULAR_INDEX = "modular_model_index.json"
#: Configurations of parts have a few kilobytes, indexes of tensors a few megabytes.
MAX_JSON_BYTES = 8 << 20


@dataclass(frozen=True)
class LocalModel:
    """A folder in diffusers' format; or a file with all parts, whose configurations are bundled; or a file with the
    transformer only, on the folder of a base model that holds the other parts.
    """

    name: str
    """As in the setting or in the catalogue."""
    path: Path
    """The folder, or the file that holds the weights."""
    folder: Path
    """Holds the index and the configurations: `path`, a bundled folder for checkpoints, the base for transformers."""
    index: Mapping[str, Any]
    """The content of model_index.json or modular_model_index.json."""
    is_modular: bool = False
    """Whether that index is the one of modular pipelines."""
    overrides: ModelOverrides = NO_OVERRIDES
    """What an imagegen.json in the folder, or beside the file, sets."""
    family_key: str | None = None
    """The family that the header of a file names; None for folders."""
    revision: str = ""
    """Changes whenever the files change: of the hub, or of sizes and modification times."""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Configurations in place of those in `folder`, by part: the shapes in a file decide them."""
    file_parts: Mapping[str, Role] = field(default_factory=dict)
    """The parts whose weights are in the file `path`, each with its role there; none for folders."""
    base: str | None = None
    """The model that gives a file the parts that it lacks."""
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    """The bundled tokenizer of each part that has none in `folder`."""

    @property
    def pipeline_class(self) -> str:
        return self.overrides.pipeline_class or str(self.index.get("_class_name") or "")

    @property
    def parts(self) -> dict[str, tuple[str, str]]:
        """Library and class of each part. Raises ConfigurationError for parts that need their own code."""
        return parts_of(dict(self.index), self.name)

    @property
    def denoiser(self) -> str:
        """The part that denoises."""
        return "unet" if "unet" in self.index else "transformer"

    @property
    def is_inpainting_model(self) -> bool:
        """Whether its U-Net takes noise, the mask and the masked image: 4 + 1 + 4 channels."""
        return self.config("unet").get("in_channels") == 9

    @property
    def latent_side(self) -> int:
        """How many pixels a latent is wide."""
        config = self.config("vae")
        if ratio := config.get("spatial_compression_ratio"):
            return int(ratio)
        if (halvings := config.get("temperal_downsample")) is not None:
            return 1 << len(halvings)
        blocks = config.get("encoder_block_out_channels") or config.get("block_out_channels") or (0,) * 4
        return 1 << (len(blocks) - 1)

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part; empty if it has none. Raises ConfigurationError if it is not valid JSON."""
        if part in self.configs:
            return dict(self.configs[part])
        for name in ("config.json", "scheduler_config.json", "preprocessor_config.json"):
            if (self.folder / part / name).is_file():
                return read_json(self.folder / part / name, self.name)
        return {}


def read_json(file: Path, name: str) -> dict[str, Any]:
    """Raises ConfigurationError for files that are too large, unreadable, or not a JSON object."""
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_JSON_BYTES + 1)
        content = json.loads(text) if len(text) <= MAX_JSON_BYTES else None
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{file.name} of the model {name} is not valid JSON.")
    return content


def index_names(index: str) -> tuple[str, ...]:
    """What a model with this index may have in its place: pipelines may be modular."""
    return (PIPELINE_INDEX, MODULAR_INDEX) if index == PIPELINE_INDEX else (index,)


def index_name(folder: Path, index: str = PIPELINE_INDEX) -> str | None:
    """The index that the folder has; None if it holds no model."""
    return next((name for name in index_names(index) if (folder / name).is_file()), None)
