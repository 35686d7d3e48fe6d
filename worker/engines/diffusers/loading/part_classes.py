"""Classes of parts by the names in an index."""

from typing import Any

import diffusers
import torch
import transformers

_LIBRARIES = {"diffusers": diffusers, "transformers": transformers}


def part_class(library: str, kind: str) -> Any | None:
    """From the installed libraries only; None for what they do not have."""
    found = getattr(_LIBRARIES.get(library), kind, None)
    return found if isinstance(found, type) else None


def has_weights(kind: Any | None) -> bool:
    return kind is not None and issubclass(kind, torch.nn.Module)
