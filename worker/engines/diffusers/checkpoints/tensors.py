"""Reads the tensors of one part of a single file, in the model's precision and under the part's own names."""

from pathlib import Path

import torch
from safetensors import safe_open

from worker.models.checkpoints.tensor_names import SCALES, Role, sort_tensors

Tensors = dict[str, torch.Tensor]

_EIGHT_BITS = frozenset(
    getattr(torch, name) for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
)
#: Of the denoiser's tensors, in most layouts.
DENOISER_PREFIX = "model.diffusion_model."


def read_part(path: Path, role: Role | None, dtype: torch.dtype) -> Tensors:
    """By the names within the part; without a role all tensors, for files with nothing but a transformer."""
    with safe_open(path, framework="pt") as file:
        listed = list(file.keys())
        everything = {name.removeprefix(DENOISER_PREFIX): name for name in listed}
        names = everything if role is None else sort_tensors(listed).get(role, {})
        read = {inner: file.get_tensor(name) for inner, name in names.items()}
    scales = {inner: read.pop(inner) for inner in list(read) if inner.endswith(SCALES)}
    return {inner: _converted(inner, tensor, scales, dtype) for inner, tensor in read.items()}


def _converted(inner: str, tensor: torch.Tensor, scales: Tensors, dtype: torch.dtype) -> torch.Tensor:
    """In the precision of the model; eight-bit numbers may have a scale beside them."""
    if not tensor.is_floating_point():
        return tensor
    stem = inner.removesuffix(".weight")
    scale = next((scales[stem + ending] for ending in SCALES if stem + ending in scales), None)
    if scale is None or tensor.dtype not in _EIGHT_BITS:
        return tensor.to(dtype)
    return (tensor.float() * scale.float()).to(dtype)
