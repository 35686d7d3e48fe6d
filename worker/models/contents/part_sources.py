"""What a part of a model is loaded from: models whose parts have equal sources can use the same part."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.models.contents.digests import Content, Digests
from worker.models.local_model import LocalModel, read_json
from worker.models.placements import AUTOENCODER
from worker.models.weight_files import weights_in

#: Says where a configuration comes from, and which version of a library wrote it.
_ORIGIN = frozenset({"_name_or_path", "_diffusers_version", "_commit_hash", "transformers_version"})


@dataclass(frozen=True)
class PartSource:
    kind: str
    """Class, configuration and precision."""
    contents: tuple[Content, ...]

    def equals(self, other: "PartSource", digests: Digests) -> bool:
        """Reads files of the same size, each only once until it changes."""
        if self.kind != other.kind or len(self.contents) != len(other.contents):
            return False
        return all(digests.are_equal(*pair) for pair in zip(self.contents, other.contents, strict=True))


def source_of(model: LocalModel, part: str, dtype: str) -> PartSource | None:
    """None for parts that are not shared: denoisers, encoders that LoRAs change, and parts without weights.

    Raises OSError and ConfigurationError for files that cannot be read.
    """
    library, kind = model.parts[part]
    if not (part == AUTOENCODER or (library == "transformers" and not is_changed_by_loras(kind))):
        return None
    if part not in model.file_parts:
        return folder_source(f"{library} {kind}", model.folder / part, dtype)
    content = Content.of(model.path, model.file_parts[part])
    return PartSource(_named(f"{library} {kind} {dtype}", {"config.json": model.config(part)}), (content,))


def is_changed_by_loras(kind: str) -> bool:
    """Whether LoRAs and embeddings change a text encoder of this class while its model is in use."""
    return kind.startswith("CLIPTextModel")


def folder_source(kind: str, folder: Path, dtype: str) -> PartSource | None:
    """The source of a part in a separate folder; None without weights. Raises what `source_of` raises."""
    weights = weights_in(folder, dtype)
    if not weights:
        return None
    configs = [file for file in folder.glob("*.json") if ".index." not in file.name]
    named = _named(f"{kind} {dtype}", {file.name: read_json(file, folder.name) for file in configs})
    return PartSource(named, tuple(map(Content.of, weights)))


def _named(kind: str, configs: Mapping[str, Mapping[str, Any]]) -> str:
    plain = {
        name: {key: value for key, value in config.items() if key not in _ORIGIN} for name, config in configs.items()
    }
    return f"{kind} {json.dumps(plain, sort_keys=True)}"
