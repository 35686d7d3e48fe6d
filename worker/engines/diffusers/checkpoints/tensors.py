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


class TensorFile:
    """Reads tensors lazily."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        self._path, self._dtype = path, dtype
        with safe_open(path, framework="pt") as file:
            self._names = list(file.keys())
        self._roles = sort_tensors(self._names)

    def of(self, role: Role) -> Tensors:
        return self._read(self._roles.get(role, {}))

    def everything(self) -> Tensors:
        """For files with nothing but a transformer."""
        return self._read({name.removeprefix(DENOISER_PREFIX): name for name in self._names})

    def _read(self, names: dict[str, str]) -> Tensors:
        """By the names within the part."""
        with safe_open(self._path, framework="pt") as file:
            read = {inner: file.get_tensor(name) for inner, name in names.items()}
        scales = {inner: tensor for inner, tensor in read.items() if inner.endswith(SCALES)}
        for inner in scales:
            del read[inner]
        return {inner: self._converted(inner, tensor, scales) for inner, tensor in read.items()}

    def _converted(self, inner: str, tensor: torch.Tensor, scales: Tensors) -> torch.Tensor:
        """In the precision of the model; eight-bit numbers may have a scale beside them."""
        if not tensor.is_floating_point():
            return tensor
        stem = inner.removesuffix(".weight")
        scale = next((scales[stem + ending] for ending in SCALES if stem + ending in scales), None)
        if scale is None or tensor.dtype not in _EIGHT_BITS:
            return tensor.to(self._dtype)
        return (tensor.float() * scale.float()).to(self._dtype)
