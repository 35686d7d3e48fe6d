"""Tiny models of common families in diffusers' format, and the same weights as a single file."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
import transformers

from tests.worker.engines.diffusers.checkpoints import original_layouts as original
from tests.worker.engines.diffusers.checkpoints import transformer_layouts as others
from worker.models.checkpoints import configurations
from worker.models.checkpoints.configurations import write_tokenizer

_CLIP = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 1, "num_hidden_layers": 2}
_CLIP |= {"projection_dim": 64}
_VAE: dict[str, Any] = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "sample_size": 64,
}
_LEVELS: dict[str, Any] = {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
_LEVELS |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1}
_T5 = {"d_model": 64, "d_ff": 64, "d_kv": 8, "num_heads": 2, "num_layers": 1}
_FLUX: dict[str, Any] = {"num_layers": 1, "num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2}
_FLUX |= {"joint_attention_dim": 64, "pooled_projection_dim": 64, "axes_dims_rope": [4, 14, 14]}
_SD3 = {"num_layers": 2, "num_attention_heads": 1, "joint_attention_dim": 128, "caption_projection_dim": 64}
_SD3 |= {"pooled_projection_dim": 128, "pos_embed_max_size": 16, "sample_size": 8}
_CHROMA = {key: value for key, value in _FLUX.items() if key != "pooled_projection_dim"}
_CHROMA |= {"approximator_hidden_dim": 32, "approximator_layers": 2}
_Z_IMAGE: dict[str, Any] = {"dim": 64, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
_Z_IMAGE |= {"cap_feat_dim": 64, "axes_dims": [8, 12, 12]}
_QWEN3 = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
_QWEN3 |= {"num_key_value_heads": 1, "head_dim": 32}
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
    "sd3": {
        "transformer": _SD3,
        "vae": _VAE | {"latent_channels": 16},
        "text_encoder": _CLIP,
        "text_encoder_2": _CLIP,
        "text_encoder_3": _T5 | {"d_model": 128},
    },
    "chroma": {
        "transformer": _CHROMA,
        "vae": _VAE | {"latent_channels": 16},
        "text_encoder": _T5,
    },
    "z-image": {
        "transformer": _Z_IMAGE,
        "vae": _VAE | {"latent_channels": 16},
        "text_encoder": _QWEN3,
    },
}


@cache
def tokenizer(name: str, kind: str) -> Any:
    with TemporaryDirectory() as folder:
        write_tokenizer(name, Path(folder) / name)
        return getattr(transformers, kind).from_pretrained(Path(folder) / name)


def tiny_pipeline(family: str, pipeline: str | None = None, **changes: Mapping[str, Any]) -> Any:
    """With random weights. `changes` are made to the configurations of parts."""
    torch.manual_seed(0)
    index = configurations.index_of(family)
    parts: dict[str, Any] = {}
    for part, name in configurations.names_of_parts(family).items():
        library, kind = index[part]
        if configurations.is_tokenizer(name):
            parts[part] = tokenizer(name, kind)
        else:
            changed = CHANGES[family].get(part, {}) | dict(changes.get(part, {}))
            parts[part] = _made(library, kind, configurations.configuration(name) | changed)
    none: dict[str, Any] = {name: None for name, value in index.items() if value == [None, None]}
    if "requires_safety_checker" in index:
        none["requires_safety_checker"] = False
    made = getattr(diffusers, pipeline or index["_class_name"])(**parts, **none)
    made.set_progress_bar_config(disable=True)
    return made


def _made(library: str, kind: str, config: dict[str, Any]) -> Any:
    if library == "diffusers":
        made = getattr(diffusers, config.get("_class_name", kind)).from_config(config)
        return made.eval() if isinstance(made, torch.nn.Module) else made
    made = getattr(transformers, kind)
    return made(made.config_class(**config)).eval()


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
                original.prefixed("model.diffusion_model.", _TRANSFORMERS[family](pipe.transformer)),
                original.prefixed("vae.", original.vae(pipe.vae)),
                *_text_encoders(family, pipe),
            ]


_TRANSFORMERS = {"flux1": original.flux, "sd3": others.sd3, "chroma": others.chroma, "z-image": others.z_image}


def _text_encoders(family: str, pipe: Any) -> list[original.Tensors]:
    prefix = "text_encoders."
    match family:
        case "flux1":
            return [
                original.prefixed(f"{prefix}clip_l.transformer.", original.clip(pipe.text_encoder)),
                original.prefixed(f"{prefix}t5xxl.transformer.", dict(pipe.text_encoder_2.state_dict())),
            ]
        case "sd3":
            return [
                original.prefixed(f"{prefix}clip_l.transformer.", original.clip(pipe.text_encoder)),
                original.prefixed(f"{prefix}clip_g.transformer.", original.clip(pipe.text_encoder_2)),
                original.prefixed(f"{prefix}t5xxl.transformer.", dict(pipe.text_encoder_3.state_dict())),
            ]
        case "chroma":
            return [original.prefixed(f"{prefix}t5xxl.transformer.", dict(pipe.text_encoder.state_dict()))]
        case _:
            return [original.prefixed(f"{prefix}qwen3_4b.transformer.model.", dict(pipe.text_encoder.state_dict()))]
