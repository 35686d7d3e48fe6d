"""Derives the configuration of a part from the shapes of its tensors, on top of the bundled one."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from worker.models.checkpoints.header import Tensor
from worker.models.checkpoints.rejections import NotACheckpoint
from worker.models.checkpoints.tensor_names import Role

Tensors = Mapping[str, Tensor]
Config = dict[str, Any]


def derive(role: Role, kind: str, tensors: Tensors, bundled: Mapping[str, Any]) -> Config:
    """The configuration of a part. `kind` is the class of diffusers or transformers. Raises NotACheckpoint."""
    function = _BY_CLASS.get(kind)
    if function is None:
        return dict(bundled)
    try:
        config = {**bundled, **function(tensors)}
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        detail = re.sub(r"['\"]", "", str(error))
        raise NotACheckpoint(
            f"Its {role} has an unusual layout ({detail[:120]}); use a folder in diffusers' format."
        ) from None
    if role is Role.CLIP_H:
        # Stable Diffusion 2 reads the last but one layer, so the last one is not part of its text encoder.
        config["num_hidden_layers"] -= 1
    return config


def count(tensors: Tensors, pattern: str) -> int:
    """How many different numbers the pattern's group has in the names."""
    found = re.compile(pattern)
    return len({match[1] for name in tensors if (match := found.match(name))})


def _side(tensors: Tensors, name: str, axis: int) -> int:
    return tensors[name].shape[axis]


def _clip(tensors: Tensors) -> Config:
    hugging_face = "text_model.embeddings.token_embedding.weight" in tensors
    start = "text_model.embeddings." if hugging_face else ""
    fc = "text_model.encoder.layers.0.mlp.fc1.weight" if hugging_face else "transformer.resblocks.0.mlp.c_fc.weight"
    vocabulary, hidden = tensors[f"{start}token_embedding.weight"].shape
    config = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": _side(tensors, fc, 0),
        "num_attention_heads": max(1, hidden // 64),
        "num_hidden_layers": count(tensors, r"(?:text_model\.encoder\.layers|transformer\.resblocks)\.(\d+)\."),
    }
    if "text_projection" in tensors:
        config["projection_dim"] = _side(tensors, "text_projection", 1)
    elif "text_projection.weight" in tensors:
        config["projection_dim"] = _side(tensors, "text_projection.weight", 0)
    return config


def _projected_clip(tensors: Tensors) -> Config:
    config = _clip(tensors)
    return {"projection_dim": config["hidden_size"], **config}


def _t5(tensors: Tensors) -> Config:
    vocabulary, width = tensors["shared.weight"].shape
    attention = "encoder.block.0.layer.0.SelfAttention"
    heads = _side(tensors, f"{attention}.relative_attention_bias.weight", 1)
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_ff": _side(tensors, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0),
        "d_kv": _side(tensors, f"{attention}.q.weight", 0) // heads,
        "num_heads": heads,
        "num_layers": count(tensors, r"encoder\.block\.(\d+)\."),
    }


def _qwen3(tensors: Tensors) -> Config:
    vocabulary, width = tensors["embed_tokens.weight"].shape
    head = _side(tensors, "layers.0.self_attn.q_norm.weight", 0)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _side(tensors, "layers.0.mlp.gate_proj.weight", 0),
        "head_dim": head,
        "num_attention_heads": _side(tensors, "layers.0.self_attn.q_proj.weight", 0) // head,
        "num_key_value_heads": _side(tensors, "layers.0.self_attn.k_proj.weight", 0) // head,
        "num_hidden_layers": count(tensors, r"layers\.(\d+)\."),
    }


def _autoencoder(tensors: Tensors) -> Config:
    levels = count(tensors, r"encoder\.down\.(\d+)\.block\.")
    if not levels:
        raise ValueError("an autoencoder of another layout")
    return {
        "block_out_channels": [_side(tensors, f"encoder.down.{i}.block.0.conv1.weight", 0) for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": count(tensors, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": _side(tensors, "decoder.conv_in.weight", 1),
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
    }


def _unet(tensors: Tensors) -> Config:
    """Blocks: a convolution, then for each level its layers and, except in the last, a downsampling."""
    channels, depths, layers = [], [], 0
    for block in range(1, count(tensors, r"input_blocks\.(\d+)\.")):
        start = f"input_blocks.{block}"
        if f"{start}.0.op.weight" in tensors:
            layers = 0
            continue
        depth = count(tensors, rf"{re.escape(start)}\.1\.transformer_blocks\.(\d+)\.")
        layers += 1
        if layers == 1:
            channels.append(_side(tensors, f"{start}.0.out_layers.3.weight", 0))
            depths.append(depth)
        elif depth != depths[-1]:
            raise ValueError("layers of one level that differ")
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)]
    if count(tensors, r"middle_block\.1\.transformer_blocks\.(\d+)\.") == 0 or layers == 0:
        raise ValueError("a middle block without attention")
    keys = [name for name in tensors if name.endswith("attn2.to_k.weight")]
    config: Config = {
        "in_channels": _side(tensors, "input_blocks.0.0.weight", 1),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": down,
        "up_block_types": up,
        "cross_attention_dim": _side(tensors, keys[0], 1),
        "transformer_layers_per_block": [max(1, depth) for depth in depths],
    }
    projection = next(tensor for name, tensor in tensors.items() if name.endswith(".1.proj_in.weight"))
    if len(projection.shape) == 2:
        config |= {"use_linear_projection": True, "attention_head_dim": [max(1, side // 64) for side in channels]}
    if "label_emb.0.0.weight" in tensors:
        config["projection_class_embeddings_input_dim"] = _side(tensors, "label_emb.0.0.weight", 1)
    if "time_embed.cond_proj.weight" in tensors:
        config["time_cond_proj_dim"] = _side(tensors, "time_embed.cond_proj.weight", 1)
    return config


def _flux(tensors: Tensors) -> Config:
    width, channels = tensors["img_in.weight"].shape
    head = _side(tensors, "double_blocks.0.img_attn.norm.query_norm.scale", 0)
    return {
        "in_channels": channels,
        "out_channels": _side(tensors, "final_layer.linear.weight", 0),
        "num_layers": count(tensors, r"double_blocks\.(\d+)\."),
        "num_single_layers": count(tensors, r"single_blocks\.(\d+)\."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": _side(tensors, "txt_in.weight", 1),
        "axes_dims_rope": [head // 8, head * 7 // 16, head * 7 // 16],
    }


def _flux1(tensors: Tensors) -> Config:
    return _flux(tensors) | {
        "pooled_projection_dim": _side(tensors, "vector_in.in_layer.weight", 1),
        "guidance_embeds": "guidance_in.in_layer.weight" in tensors,
    }


def _chroma(tensors: Tensors) -> Config:
    hidden, channels = tensors["distilled_guidance_layer.in_proj.weight"].shape
    return _flux(tensors) | {
        "approximator_num_channels": channels,
        "approximator_hidden_dim": hidden,
        "approximator_layers": count(tensors, r"distilled_guidance_layer\.layers\.(\d+)\."),
    }


def _sd3(tensors: Tensors) -> Config:
    width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    layers = count(tensors, r"joint_blocks\.(\d+)\.")
    norm = tensors.get("joint_blocks.0.x_block.attn.ln_q.weight")
    head = 64 if norm is None else norm.shape[0]
    return {
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": _side(tensors, "final_layer.linear.weight", 0) // patch**2,
        "num_layers": layers,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": _side(tensors, "context_embedder.weight", 1),
        "caption_projection_dim": _side(tensors, "context_embedder.weight", 0),
        "pooled_projection_dim": _side(tensors, "y_embedder.mlp.0.weight", 1),
        "pos_embed_max_size": math.isqrt(_side(tensors, "pos_embed", 1)),
        "dual_attention_layers": [i for i in range(layers) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in tensors],
        "qk_norm": "rms_norm" if norm is not None else None,
    }


def _z_image(tensors: Tensors) -> Config:
    width = _side(tensors, "layers.0.attention.qkv.weight", 1)
    head = _side(tensors, "layers.0.attention.q_norm.weight", 0)
    return {
        "in_channels": _side(tensors, "x_embedder.weight", 1) // 4,
        "dim": width,
        "n_layers": count(tensors, r"layers\.(\d+)\."),
        "n_refiner_layers": count(tensors, r"noise_refiner\.(\d+)\."),
        "n_heads": width // head,
        "n_kv_heads": width // head,
        "cap_feat_dim": _side(tensors, "cap_embedder.0.weight", 0),
        "axes_dims": [head // 4, head * 3 // 8, head * 3 // 8],
    }


_BY_CLASS: Mapping[str, Callable[[Tensors], Config]] = {
    "CLIPTextModel": _clip,
    "CLIPTextModelWithProjection": _projected_clip,
    "T5EncoderModel": _t5,
    "Qwen3Model": _qwen3,
    "AutoencoderKL": _autoencoder,
    "UNet2DConditionModel": _unet,
    "FluxTransformer2DModel": _flux1,
    "ChromaTransformer2DModel": _chroma,
    "SD3Transformer2DModel": _sd3,
    "ZImageTransformer2DModel": _z_image,
}
