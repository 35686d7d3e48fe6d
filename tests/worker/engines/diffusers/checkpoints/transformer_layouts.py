"""The original names of transformers other than FLUX.1."""

import re
from typing import Any

import torch

from tests.worker.engines.diffusers.checkpoints.original_layouts import Tensors, flux


def chroma(model: Any) -> Tensors:
    """Like FLUX.1, with a small network in place of modulations."""
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("distilled_guidance_layer.")}
    tensors = flux(model, without=own)
    for name, tensor in own.items():
        renamed = name.replace("linear_1", "in_layer").replace("linear_2", "out_layer")
        tensors[re.sub(r"(norms\.\d+)\.weight", r"\1.scale", renamed)] = tensor
    return tensors


def z_image(model: Any) -> Tensors:
    named, tensors = dict(model.state_dict()), {}
    for name, tensor in named.items():
        if name.endswith(("attention.to_k.weight", "attention.to_v.weight")):
            continue
        if name.endswith("attention.to_q.weight"):
            parts = [named[name.replace("to_q", f"to_{letter}")] for letter in "qkv"]
            tensors[name.replace("to_q", "qkv")] = torch.cat(parts)
            continue
        renamed = name.replace("attention.norm_q", "attention.q_norm").replace("attention.norm_k", "attention.k_norm")
        renamed = renamed.replace("attention.to_out.0", "attention.out").replace("all_x_embedder.2-1.", "x_embedder.")
        tensors[renamed.replace("all_final_layer.2-1.", "final_layer.")] = tensor
    return tensors


_SD3_TOP = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
}
_SD3_BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
_SD3_FUSED = {
    "attn.to_q": ("x_block.attn.qkv", ("attn.to_q", "attn.to_k", "attn.to_v")),
    "attn2.to_q": ("x_block.attn2.qkv", ("attn2.to_q", "attn2.to_k", "attn2.to_v")),
    "attn.add_q_proj": ("context_block.attn.qkv", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
}


def sd3(model: Any) -> Tensors:
    named, tensors = dict(model.state_dict()), {"pos_embed": model.state_dict()["pos_embed.pos_embed"]}
    last = model.config.num_layers - 1
    for name, tensor in named.items():
        stem, _, end = name.rpartition(".")
        match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", stem)
        if stem == "norm_out.linear" or stem == f"transformer_blocks.{last}.norm1_context.linear":
            # The last block stores shift and scale in the other order, like the final layer.
            scale, shift = tensor.chunk(2)
            front = "final_layer" if match is None else f"joint_blocks.{last}.context_block"
            tensors[f"{front}.adaLN_modulation.1.{end}"] = torch.cat([shift, scale])
        elif match is None:
            tensors |= {f"{_SD3_TOP[stem]}.{end}": tensor} if stem in _SD3_TOP else {}
        elif match[2] in _SD3_FUSED:
            layer, parts = _SD3_FUSED[match[2]]
            front = stem.removesuffix(match[2])
            fused = torch.cat([named[f"{front}{part}.{end}"] for part in parts])
            tensors[f"joint_blocks.{match[1]}.{layer}.{end}"] = fused
        elif match[2] in _SD3_BLOCK:
            tensors[f"joint_blocks.{match[1]}.{_SD3_BLOCK[match[2]]}.{end}"] = tensor
    return tensors
