"""Files with the header of a model and no weights: their disk space is never allocated."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


def write_header(file: Path, shapes: Shapes, metadata: Mapping[str, str] | None = None, dtype: str = "F16") -> Path:
    width, offset, header = {"F16": 2, "BF16": 2, "F8_E4M3": 1}[dtype], 0, {}
    for name, shape in shapes.items():
        size = math.prod(shape) * width
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    return write_raw(file, {**({"__metadata__": dict(metadata)} if metadata else {}), **header}, offset)


def write_raw(file: Path, header: Any, weights: int = 0) -> Path:
    """Any header, and that many bytes after it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + weights)
    return file


def unet_shapes(channels: int = 4, context: int = 768, label: int | None = None) -> dict[str, tuple[int, ...]]:
    """A U-Net with two levels, an autoencoder and CLIP: what Stable Diffusion 1.5 consists of, in small."""
    unet: dict[str, tuple[int, ...]] = {
        "input_blocks.0.0.weight": (32, channels, 3, 3),
        "input_blocks.1.0.out_layers.3.weight": (32, 32, 3, 3),
        "input_blocks.1.1.proj_in.weight": (32, 32, 1, 1),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, context),
        "input_blocks.2.0.op.weight": (32, 32, 3, 3),
        "input_blocks.3.0.out_layers.3.weight": (64, 32, 3, 3),
        "middle_block.1.transformer_blocks.0.norm1.weight": (64,),
    }
    if label is not None:
        unet["label_emb.0.0.weight"] = (128, label)
    vae = {
        "encoder.down.0.block.0.conv1.weight": (32, 32, 3, 3),
        "decoder.conv_in.weight": (32, 4, 3, 3),
    }
    return {f"model.diffusion_model.{name}": shape for name, shape in unet.items()} | {
        f"first_stage_model.{name}": shape for name, shape in vae.items()
    }


def clip_shapes(prefix: str = "cond_stage_model.transformer.text_model.") -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}embeddings.token_embedding.weight": (100, 64),
        f"{prefix}encoder.layers.0.mlp.fc1.weight": (128, 64),
    }


def open_clip_shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}token_embedding.weight": (100, 64),
        f"{prefix}positional_embedding": (77, 64),
        f"{prefix}transformer.resblocks.0.mlp.c_fc.weight": (128, 64),
        f"{prefix}transformer.resblocks.1.mlp.c_fc.weight": (128, 64),
    }


def sd15_shapes(channels: int = 4) -> dict[str, tuple[int, ...]]:
    return unet_shapes(channels) | clip_shapes()


def sd2_shapes(channels: int = 4) -> dict[str, tuple[int, ...]]:
    return unet_shapes(channels, 1024) | open_clip_shapes("cond_stage_model.model.")


def sdxl_shapes(channels: int = 4) -> dict[str, tuple[int, ...]]:
    first = clip_shapes("conditioner.embedders.0.transformer.text_model.")
    return unet_shapes(channels, 2048, 2816) | first | open_clip_shapes("conditioner.embedders.1.model.")


def flux_shapes(channels: int = 64, *, guidance: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "img_in.weight": (64, channels),
        "txt_in.weight": (64, 32),
        "vector_in.in_layer.weight": (64, 16),
        "double_blocks.0.img_attn.qkv.weight": (192, 64),
        "double_blocks.0.img_attn.norm.query_norm.scale": (32,),
        "single_blocks.0.linear2.weight": (64, 320),
        "final_layer.linear.weight": (64, 64),
    }
    return shapes | ({"guidance_in.in_layer.weight": (64, 256)} if guidance else {})
