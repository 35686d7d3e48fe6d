"""Classes of parts by the names in an index, and whether all their weights were found."""

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
import transformers

_LIBRARIES = {"diffusers": diffusers, "transformers": transformers}


def part_class(library: str, kind: str) -> Any | None:
    """From the installed libraries only; None for what they do not have."""
    found = getattr(_LIBRARIES.get(library), kind, None)
    return found if isinstance(found, type) else None


def require_weights(part: torch.nn.Module, name: str, info: Mapping[str, Any]) -> None:
    """Raises ValueError if weights are missing: the library, which returned `info`, has made them up."""
    if missing := set(info["missing_keys"]) & {key for key, _ in part.named_parameters()}:
        raise ValueError(f"its weights are incomplete: {'/'.join(filter(None, (name, min(missing))))} is missing")
