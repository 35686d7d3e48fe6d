"""Loads the parts of a single file, with bundled configurations or on a base model. Uses no network."""

import importlib.util
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from safetensors import safe_open

from shared.errors import ConfigurationError
from shared.settings.explanations import install_command
from worker.engines.diffusers.checkpoints import flux
from worker.engines.diffusers.checkpoints.flux import Tensors
from worker.engines.diffusers.loading.part_classes import require_weights
from worker.models.checkpoints.configurations import write_tokenizer
from worker.models.checkpoints.tensor_names import SCALES, Role, sort_tensors
from worker.models.local_model import LocalModel

#: Of the denoiser's tensors, in most layouts.
DENOISER_PREFIX = "model.diffusion_model."
#: How names of CLIP's tensors begin, and the one that files may lack.
_WRAPPER, _PROJECTION = "text_model.", "text_projection.weight"


@contextmanager
def configured_folder(model: LocalModel) -> Iterator[Path]:
    """The parts of the model in diffusers' format: its own folder, or for a file one without what the file has."""
    if not model.file_parts:
        yield model.folder
        return
    with tempfile.TemporaryDirectory(prefix="imagegen-") as temporary:
        folder = Path(temporary)
        for part in model.parts:
            if part in model.tokenizers:
                write_tokenizer(model.tokenizers[part], folder / part)
            elif part in model.configs:
                name = "scheduler_config.json" if part == "scheduler" else "config.json"
                (folder / part).mkdir()
                (folder / part / name).write_text(json.dumps(dict(model.configs[part])), encoding="utf-8")
            else:
                (folder / part).symlink_to(model.folder.absolute() / part)
        yield folder


def load_file_part(kind: Any, model: LocalModel, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """A part of the file, with its configuration in `folder`.

    Raises what the libraries raise, and ValueError if weights are missing.
    """
    if model.path.suffix == ".gguf":
        return _load_gguf(kind, model.path, folder, part, dtype)
    tensors = read_part(model.path, model.file_parts[part] if part in model.configs else None, dtype)
    if issubclass(kind, transformers.PreTrainedModel):
        return _load_text_encoder(kind, folder, part, tensors, dtype)
    return _load_single(kind, folder, part, _in_known_layout(kind, tensors))


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
    if scale is None or tensor.itemsize > 1:
        return tensor.to(dtype)
    return (tensor.float() * scale.float()).to(dtype)


def _load_gguf(kind: Any, file: Path, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """Its weights stay compressed in memory. Raises ConfigurationError without the library."""
    if importlib.util.find_spec("gguf") is None:
        raise ConfigurationError(f"GGUF files need the package gguf: {install_command('gguf')}")
    from diffusers.models.model_loading_utils import load_gguf_checkpoint

    tensors = load_gguf_checkpoint(str(file))
    return kind.from_single_file(
        flux.translate(tensors) if flux.is_flux(tensors) else tensors,
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
        config=str(folder),
        subfolder=part,
        dtype=dtype,
        local_files_only=True,
    )


def _in_known_layout(kind: Any, tensors: Tensors) -> Tensors:
    """Names that the class's own `from_single_file` understands."""
    if flux.is_flux(tensors):
        return flux.translate(tensors)
    if kind is diffusers.UNet2DConditionModel:
        return {f"{DENOISER_PREFIX}{name}": tensor for name, tensor in tensors.items()}
    return tensors


def _load_single(kind: Any, folder: Path, part: str, tensors: Tensors) -> Any:
    try:
        return kind.from_single_file(tensors, config=str(folder), subfolder=part, local_files_only=True)
    except KeyError as error:
        raise ValueError(f"its weights are incomplete: {error.args[0]} of {part} is missing") from None
    except NotImplementedError:
        # The class leaves weights that are missing without memory.
        raise ValueError(f"its weights are incomplete: some of {part} are missing") from None


def _load_text_encoder(kind: Any, folder: Path, part: str, tensors: Tensors, dtype: torch.dtype) -> Any:
    """CLIP in two layouts, T5 or Qwen3."""
    config = kind.config_class.from_pretrained(str(folder), subfolder=part, local_files_only=True)
    with torch.device("meta"):
        empty = kind(config)
    if "positional_embedding" in tensors:
        tensors = convert_open_clip_checkpoint(empty, tensors, prefix="")
    expected = set(empty.state_dict())
    state = _named_as(expected, tensors)
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
