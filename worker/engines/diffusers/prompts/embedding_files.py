"""Finds files of textual inversion, and reads their vectors."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from worker.engines.diffusers.loras.lora_files import walk_files
from worker.models.families import Family
from worker.models.weight_files import SUFFIX

#: More than a text encoder reads would be of no use.
MAX_VECTORS_OF_A_FILE = 75
MAX_NAME = 200
#: The names of the vectors for each text encoder, by the tools that write files for several.
_NAMES = (("clip_l", "text_encoders_0"), ("clip_g", "text_encoders_1"))


def takes_embeddings(pipeline: Any, family: Family) -> bool:
    """Only where CLIP alone reads the prompts: other text encoders would read the words that stand for vectors."""
    return family.reads_with_clip and hasattr(pipeline, "load_textual_inversion")


def find_embeddings(folder: Path | None) -> dict[str, Path]:
    """Files by the words that stand for them in prompts: their names without the ending, whatever the sub-folder."""
    found: dict[str, Path] = {}
    for inner, files in walk_files(folder) if folder else ():
        for file in files:
            name = unicodedata.normalize("NFC", file[: -len(SUFFIX)])
            if name.isprintable() and name == name.strip() and 0 < len(name) <= MAX_NAME and "<" not in name:
                found.setdefault(name, inner / file)
    return dict(sorted(found.items()))


class UnusableEmbedding(Exception):
    """The message says why, as a sentence without its end."""


def read_vectors(file: Path, widths: Sequence[int]) -> list[torch.Tensor]:
    """Those for each text encoder, one vector a row. Raises OSError, SafetensorError and UnusableEmbedding."""
    with safe_open(file, "pt") as opened:
        keys = list(opened.keys())
        if len(widths) > 1:
            chosen = [next((key for key in names if key in keys), None) for names in _NAMES[: len(widths)]]
        else:
            chosen = [keys[0] if len(keys) == 1 else None]
        found = [key for key in chosen if key is not None]
        shapes = [opened.get_slice(key).get_shape() for key in found]
        fits = len(found) == len(widths) and all(
            len(shape) in (1, 2) and shape[-1] == width for shape, width in zip(shapes, widths, strict=True)
        )
        if not fits:
            raise UnusableEmbedding("it does not fit the model")
        counts = {1 if len(shape) == 1 else shape[0] for shape in shapes}
        if len(counts) > 1 or not 0 < min(counts) <= MAX_VECTORS_OF_A_FILE:
            raise UnusableEmbedding(f"it must have 1 to {MAX_VECTORS_OF_A_FILE} vectors")
        return [opened.get_tensor(key).float().reshape(-1, width) for key, width in zip(found, widths, strict=True)]
