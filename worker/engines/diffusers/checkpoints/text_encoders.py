"""Loads text encoders from the tensors of a single file: CLIP in two layouts, T5 and Qwen3."""

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

from worker.engines.diffusers.checkpoints.tensors import Tensors
from worker.engines.diffusers.loading.part_classes import require_weights

_WRAPPER = "text_model."
_PROJECTION = "text_projection.weight"


def load_text_encoder(kind: Any, folder: Path, part: str, tensors: Tensors, dtype: torch.dtype) -> Any:
    """`folder` holds the configuration. Raises what the library raises, and ValueError if weights are missing."""
    config = kind.config_class.from_pretrained(str(folder), subfolder=part, local_files_only=True)
    with torch.device("meta"):
        empty = kind(config)
    if "positional_embedding" in tensors:
        tensors = convert_open_clip_checkpoint(empty, tensors, prefix="")
    expected = set(empty.state_dict())
    state = _named_as(expected, tensors)
    if _PROJECTION in expected and _PROJECTION not in state:
        # Files for Stable Diffusion 3 leave it out where it changes nothing.
        state[_PROJECTION] = torch.eye(config.projection_dim, config.hidden_size)
    model, info = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
    require_weights(model, part, info)
    return model.eval()


def _named_as(expected: set[str], tensors: Tensors) -> Tensors:
    """Only those that the model has; its library moved the names of CLIP up by one level."""
    flat = not any(name.startswith(_WRAPPER) for name in expected)
    named = {name.removeprefix(_WRAPPER) if flat else name: tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in named.items() if name in expected}
