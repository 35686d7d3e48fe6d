"""Loads text encoders from the tensors of a single file: CLIP in two layouts, T5 and Qwen3."""

import re
from pathlib import Path
from typing import Any

import torch

from worker.engines.diffusers.checkpoints.tensors import Tensors
from worker.engines.diffusers.loading.part_classes import require_weights

#: Names of OpenCLIP, and of transformers.
_TOP = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")
_WRAPPER = "text_model."
_PROJECTION = "text_projection.weight"


def load_text_encoder(kind: Any, folder: Path, part: str, tensors: Tensors, dtype: torch.dtype) -> Any:
    """`folder` holds the configuration. Raises what the library raises, and ValueError if weights are missing."""
    config = kind.config_class.from_pretrained(str(folder), subfolder=part, local_files_only=True)
    with torch.device("meta"):
        expected = set(kind(config).state_dict())
    state = _named_as(expected, _from_open_clip(tensors) if "positional_embedding" in tensors else tensors)
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


def _from_open_clip(tensors: Tensors) -> Tensors:
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        if match := _BLOCK.fullmatch(name):
            number, layer, end = match.groups()
            renamed |= {
                f"text_model.encoder.layers.{number}.{new}.{end}": part for new, part in _layer(layer, tensor).items()
            }
        elif name == "text_projection":
            renamed[_PROJECTION] = tensor.T.contiguous()
        elif name in _TOP:
            renamed[_TOP[name]] = tensor
    return renamed


def _layer(layer: str, tensor: torch.Tensor) -> Tensors:
    """One matrix holds what are three in transformers."""
    if layer == "attn.in_proj":
        names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        # Copies: where a matrix begins in memory changes the last bits of products.
        return dict(zip(names, (part.clone() for part in tensor.chunk(3, dim=0)), strict=True))
    return {_LAYERS.get(layer, layer): tensor}
