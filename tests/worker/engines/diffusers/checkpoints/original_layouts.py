"""Writes single files as their authors do: tiny models under the original names of their tensors."""

import re
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

_UNET_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet(model: Any) -> Tensors:
    layers = model.config.layers_per_block
    has_attention = ["CrossAttn" in kind for kind in model.config.up_block_types]

    def rename(name: str) -> str:
        stem, _, end = name.rpartition(".")
        if stem in _UNET_TOP:
            return f"{_UNET_TOP[stem]}.{end}"
        match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
        if match is None:
            middle = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name)
            assert middle, name
            number = 1 if middle[1] == "attentions" else 2 * int(middle[2])
            return f"middle_block.{number}.{_resnet(middle[3], middle[1])}"
        way, level, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{end}"
        if kind == "upsamplers":
            return f"output_blocks.{(level + 1) * (layers + 1) - 1}.{2 if has_attention[level] else 1}.conv.{end}"
        block = f"input_blocks.{1 + level * (layers + 1) + number}"
        if way == "up":
            block = f"output_blocks.{level * (layers + 1) + number}"
        return f"{block}.{0 if kind == 'resnets' else 1}.{_resnet(rest, kind)}"

    return _renamed(model, rename)


def _resnet(rest: str, kind: str) -> str:
    layer, _, end = rest.partition(".")
    return f"{_RESNET[layer]}.{end}" if kind == "resnets" else rest


_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae(model: Any) -> Tensors:
    levels = len(model.config.block_out_channels)

    def rename(name: str) -> str:
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{levels - 1 - int(match[1])}", name)
        name = re.sub(r"up\.(\d)\.resnets\.(\d)", r"up.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = name.replace("upsamplers.0", "upsample")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
        for new, old in _VAE_ATTENTION.items():
            name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
        return name

    tensors = _renamed(model, rename)
    # The authors' attention is a convolution.
    is_layer = re.compile(r".*mid\.attn_1\.(?:q|k|v|proj_out)\.weight")
    return {name: tensor[:, :, None, None] if is_layer.match(name) else tensor for name, tensor in tensors.items()}


def clip(model: Any) -> Tensors:
    """As transformers named it when checkpoints were made: with a level `text_model`."""
    return _renamed(
        model, lambda name: name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"
    )


_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OPEN_CLIP_TOP = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}


def open_clip(model: Any, unread_layers: int = 0) -> Tensors:
    """Files for Stable Diffusion 2 have one layer more than is read."""
    named, tensors = clip(model), {}
    layers = model.config.num_hidden_layers
    for name, tensor in named.items():
        if name in _OPEN_CLIP_TOP:
            tensors[_OPEN_CLIP_TOP[name]] = tensor
        elif name == "text_projection.weight":
            tensors["text_projection"] = tensor.T.contiguous()
        elif match := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            number, layer, end = match.groups()
            if layer in _OPEN_CLIP:
                tensors[f"transformer.resblocks.{number}.{_OPEN_CLIP[layer]}.{end}"] = tensor
            elif layer == "self_attn.q_proj":
                parts = [named[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
                tensors[f"transformer.resblocks.{number}.attn.in_proj_{end}"] = torch.cat(parts)
    last = [name for name in tensors if name.startswith(f"transformer.resblocks.{layers - 1}.")]
    for extra in range(unread_layers):
        for name in last:
            other = name.replace(f"resblocks.{layers - 1}.", f"resblocks.{layers + extra}.")
            tensors[other] = torch.zeros_like(tensors[name])
    return tensors


_FLUX_TOP = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "proj_out": "final_layer.linear",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
}
_FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_FLUX_NORMS = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
_FUSED = {
    "attn.to_q": ("img_attn.qkv", ("attn.to_q", "attn.to_k", "attn.to_v")),
    "attn.add_q_proj": ("txt_attn.qkv", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
}


def flux(model: Any, without: Container[str] = ()) -> Tensors:
    named, tensors = dict(model.state_dict()), {}
    for name, tensor in named.items():
        if name in without:
            continue
        stem, _, end = name.rpartition(".")
        match = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", stem)
        if stem == "norm_out.linear":
            scale, shift = tensor.chunk(2)
            tensors[f"final_layer.adaLN_modulation.1.{end}"] = torch.cat([shift, scale])
        elif match is None:
            tensors[f"{_FLUX_TOP[stem]}.{end}"] = tensor
        elif match[1]:
            tensors |= _flux_single(f"single_blocks.{match[2]}", stem, match[3], end, named)
        else:
            tensors |= _flux_double(f"double_blocks.{match[2]}", stem, match[3], end, named)
    return tensors


def _flux_double(block: str, stem: str, layer: str, end: str, named: Mapping[str, torch.Tensor]) -> Tensors:
    if layer in _FUSED:
        name, parts = _FUSED[layer]
        front = stem.removesuffix(layer)
        return {f"{block}.{name}.{end}": torch.cat([named[f"{front}{part}.{end}"] for part in parts])}
    if layer in _FLUX_NORMS:
        return {f"{block}.{_FLUX_NORMS[layer]}.scale": named[f"{stem}.{end}"]}
    return {f"{block}.{_FLUX_DOUBLE[layer]}.{end}": named[f"{stem}.{end}"]} if layer in _FLUX_DOUBLE else {}


def _flux_single(block: str, stem: str, layer: str, end: str, named: Mapping[str, torch.Tensor]) -> Tensors:
    front = stem.removesuffix(layer)
    match layer:
        case "attn.to_q":
            parts = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
            return {f"{block}.linear1.{end}": torch.cat([named[f"{front}{part}.{end}"] for part in parts])}
        case "attn.norm_q" | "attn.norm_k":
            kind = "query_norm" if layer.endswith("q") else "key_norm"
            return {f"{block}.norm.{kind}.scale": named[f"{stem}.{end}"]}
        case "norm.linear":
            return {f"{block}.modulation.lin.{end}": named[f"{stem}.{end}"]}
        case "proj_out":
            return {f"{block}.linear2.{end}": named[f"{stem}.{end}"]}
    return {}


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def write(file: Path, *parts: Tensors, metadata: dict[str, str] | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    together = {name: tensor.clone().contiguous() for part in parts for name, tensor in part.items()}
    save_file(together, file, metadata)
    return file


def _renamed(model: Any, rename: Callable[[str], str]) -> Tensors:
    return {rename(name): tensor for name, tensor in model.state_dict().items()}
