"""Translates transformers of FLUX.1 and Chroma from their authors' names to those of diffusers, for any width."""

import re

import torch

Tensors = dict[str, torch.Tensor]

_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v")
#: Names outside of blocks.
_TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
}
#: Names within blocks; some layers hold what are several in diffusers.
_LAYERS: dict[str, dict[str, tuple[str, ...]]] = {
    "double": {
        "img_mod.lin": ("norm1.linear",),
        "txt_mod.lin": ("norm1_context.linear",),
        "img_attn.qkv": _ATTENTION,
        "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "img_attn.proj": ("attn.to_out.0",),
        "txt_attn.proj": ("attn.to_add_out",),
        "img_attn.norm.query_norm": ("attn.norm_q",),
        "img_attn.norm.key_norm": ("attn.norm_k",),
        "txt_attn.norm.query_norm": ("attn.norm_added_q",),
        "txt_attn.norm.key_norm": ("attn.norm_added_k",),
        "img_mlp.0": ("ff.net.0.proj",),
        "img_mlp.2": ("ff.net.2",),
        "txt_mlp.0": ("ff_context.net.0.proj",),
        "txt_mlp.2": ("ff_context.net.2",),
    },
    "single": {
        "modulation.lin": ("norm.linear",),
        "linear1": (*_ATTENTION, "proj_mlp"),
        "linear2": ("proj_out",),
        "norm.query_norm": ("attn.norm_q",),
        "norm.key_norm": ("attn.norm_k",),
    },
}
#: Chroma computes what modulates its layers in a small network of its own.
_APPROXIMATOR = {"in_layer": "linear_1", "out_layer": "linear_2"}
_BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.(.+)\.(weight|bias|scale)")


def is_flux(tensors: Tensors) -> bool:
    return "double_blocks.0.img_attn.qkv.weight" in tensors


def translate(tensors: Tensors) -> Tensors:
    width = tensors["img_in.weight"].shape[0]
    translated: Tensors = {}
    for name, tensor in tensors.items():
        translated |= _translated(name, tensor, width)
    return translated


def _translated(name: str, tensor: torch.Tensor, width: int) -> Tensors:
    if match := _BLOCK.fullmatch(name):
        kind, number, layer, end = match.groups()
        end = "weight" if end == "scale" else end
        block = f"transformer_blocks.{number}" if kind == "double" else f"single_transformer_blocks.{number}"
        return {f"{block}.{new}.{end}": part for new, part in _layer(kind, layer, tensor, width).items()}
    stem, _, end = name.rpartition(".")
    if stem == "final_layer.adaLN_modulation.1":
        # The authors store shift and scale, diffusers scale and shift.
        shift, scale = tensor.chunk(2, dim=0)
        return {f"norm_out.linear.{end}": torch.cat([scale, shift], dim=0)}
    if stem.startswith("distilled_guidance_layer."):
        front, _, last = stem.rpartition(".")
        return {f"{front}.{_APPROXIMATOR.get(last, last)}.{'weight' if end == 'scale' else end}": tensor}
    return {f"{_TOP.get(stem, stem)}.{end}": tensor}


def _layer(kind: str, layer: str, tensor: torch.Tensor, width: int) -> Tensors:
    names = _LAYERS[kind].get(layer, (layer,))
    *others, _ = names
    sizes = [*(width for _ in others), tensor.shape[0] - width * len(others)]
    return dict(zip(names, torch.split(tensor, sizes, dim=0), strict=True))
