"""Tiny models of common families in diffusers' format, and the same weights as a single file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tests.worker.engines.diffusers.checkpoints import original_layouts as original
from worker.models.checkpoints import configurations
from worker.models.checkpoints.configurations import write_tokenizer

_CLIP = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 1, "num_hidden_layers": 2}
_CLIP |= {"projection_dim": 64}
_VAE = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "sample_size": 64,
}
_LEVELS = {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
_LEVELS |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1}
_T5 = {"d_model": 64, "d_ff": 64, "d_kv": 8, "num_heads": 2, "num_layers": 1}
_FLUX = {"num_layers": 1, "num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2}
_FLUX |= {"joint_attention_dim": 64, "pooled_projection_dim": 64, "axes_dims_rope": [4, 14, 14]}
#: What differs from the bundled configuration, by family and part.
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {
        "unet": {"block_out_channels": [32, 64], "cross_attention_dim": 64, **_LEVELS},
        "vae": _VAE,
        "text_encoder": _CLIP,
    },
    "sd2": {
        "unet": {"block_out_channels": [64, 128], "attention_head_dim": [1, 2], "cross_attention_dim": 64, **_LEVELS},
        "vae": _VAE,
        "text_encoder": _CLIP,
    },
    "sdxl": {
        "unet": {
            "block_out_channels": [64, 128],
            "attention_head_dim": [1, 2],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2],
            "layers_per_block": 1,
            "cross_attention_dim": 128,
            "projection_class_embeddings_input_dim": 6 * 256 + 64,
        },
        "vae": _VAE,
        "text_encoder": _CLIP,
        "text_encoder_2": _CLIP,
    },
    "flux1": {
        "transformer": _FLUX,
        "vae": _VAE | {"latent_channels": 16},
        "text_encoder": _CLIP,
        "text_encoder_2": _T5,
    },
}


def save_folder(family: str, folder: Path, pipeline: str | None = None, **changes: Mapping[str, Any]) -> Path:
    """`changes` are made to the configurations of parts."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {}
    index = configurations.index_of(family)
    for part, name in configurations.names_of_parts(family).items():
        library, kind = index[part]
        if configurations.is_tokenizer(name):
            write_tokenizer(name, folder.parent / f".{folder.name}" / part)
            tokenizer = getattr(transformers, kind).from_pretrained(folder.parent / f".{folder.name}" / part)
            parts[part] = tokenizer
            continue
        config = configurations.configuration(name) | CHANGES[family].get(part, {}) | dict(changes.get(part, {}))
        parts[part] = _made(library, kind, config)
    none = {name: None for name, value in index.items() if value == [None, None]}
    if "requires_safety_checker" in index:
        none["requires_safety_checker"] = False
    getattr(diffusers, pipeline or index["_class_name"])(**parts, **none).save_pretrained(folder)
    return folder


def _made(library: str, kind: str, config: dict[str, Any]) -> Any:
    if library == "diffusers":
        return getattr(diffusers, config.get("_class_name", kind)).from_config(config)
    made = getattr(transformers, kind)
    return made(made.config_class(**config)).eval()


def load_folder(folder: Path) -> Any:
    return diffusers.DiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)


def single_file(family: str, pipe: Any) -> list[original.Tensors]:
    """The tensors of a whole model as common tools write them."""
    match family:
        case "sd15":
            return [
                original.prefixed("model.diffusion_model.", original.unet(pipe.unet)),
                original.prefixed("first_stage_model.", original.vae(pipe.vae)),
                original.prefixed("cond_stage_model.transformer.", original.clip(pipe.text_encoder)),
            ]
        case "sd2":
            return [
                original.prefixed("model.diffusion_model.", original.unet(pipe.unet)),
                original.prefixed("first_stage_model.", original.vae(pipe.vae)),
                original.prefixed("cond_stage_model.model.", original.open_clip(pipe.text_encoder, unread_layers=1)),
            ]
        case "sdxl":
            return [
                original.prefixed("model.diffusion_model.", original.unet(pipe.unet)),
                original.prefixed("first_stage_model.", original.vae(pipe.vae)),
                original.prefixed("conditioner.embedders.0.transformer.", original.clip(pipe.text_encoder)),
                original.prefixed("conditioner.embedders.1.model.", original.open_clip(pipe.text_encoder_2)),
            ]
        case _:
            return [
                original.prefixed("model.diffusion_model.", original.flux(pipe.transformer)),
                original.prefixed("vae.", original.vae(pipe.vae)),
                original.prefixed("text_encoders.clip_l.transformer.", original.clip(pipe.text_encoder)),
                original.prefixed("text_encoders.t5xxl.transformer.", dict(pipe.text_encoder_2.state_dict())),
            ]
