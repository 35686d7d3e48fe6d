"""Loads a pipeline from a single file, with bundled configurations or on a base model. Uses no network."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from worker.engines.diffusers.checkpoints import flux
from worker.engines.diffusers.checkpoints.gguf import load_gguf
from worker.engines.diffusers.checkpoints.tensors import TensorFile, Tensors
from worker.engines.diffusers.checkpoints.text_encoders import load_text_encoder
from worker.engines.diffusers.loading.part_classes import has_weights, part_class
from worker.models.checkpoints.configurations import write_tokenizer
from worker.models.checkpoints.tensor_names import Role
from worker.models.local_model import LocalModel
from worker.models.required_files import PIPELINE_INDEX

#: Loads a part of a base model: its class, the folder, the part, and the precision.
LoadPart = Callable[[Any, Path, str, torch.dtype], Any]
#: A part by its name if another model has the same, or else what the function loads.
GetPart = Callable[[str, Callable[[], Any]], Any]

_UNET_PREFIX = "model.diffusion_model."


def load_checkpoint(
    model: LocalModel, pipeline: Any, dtype: torch.dtype, load_part: LoadPart, get_part: GetPart, **left_out: Any
) -> Any:
    """The pipeline, on the CPU. `left_out` are settings, and parts that replace those of the model.

    Raises what the libraries raise, and ValueError if weights are missing.
    """
    with _configuration(model) as folder:
        parts = {
            part: get_part(part, partial(_load, model, folder, part, part_class(library, kind), dtype, load_part))
            for part, (library, kind) in model.parts.items()
            if part not in left_out
        }
        return pipeline.from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            **{part: loaded for part, loaded in parts.items() if loaded is not None},
            **left_out,
        )


@contextmanager
def _configuration(model: LocalModel) -> Iterator[Path]:
    """A folder in diffusers' format without weights."""
    with tempfile.TemporaryDirectory(prefix="imagegen-") as temporary:
        folder = Path(temporary)
        index = {"_diffusers_version": diffusers.__version__, **model.index}
        (folder / PIPELINE_INDEX).write_text(json.dumps(index), encoding="utf-8")
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


def _load(
    model: LocalModel, folder: Path, part: str, kind: Any | None, dtype: torch.dtype, load_part: LoadPart
) -> Any | None:
    """None for a part without weights: the pipeline loads it itself."""
    if kind is None or not has_weights(kind):
        return None
    if part not in model.file_parts:
        return load_part(kind, folder, part, dtype)
    if model.path.suffix == ".gguf":
        return load_gguf(kind, model.path, folder, part, dtype)
    file, role = TensorFile(model.path, dtype), Role(model.file_parts[part])
    if issubclass(kind, transformers.PreTrainedModel):
        return load_text_encoder(kind, folder, part, file.of(role), dtype)
    tensors = file.of(role) if part in model.configs else file.everything()
    return _load_single(kind, folder, part, _in_known_layout(kind, tensors))


def _in_known_layout(kind: Any, tensors: Tensors) -> Tensors:
    """Names that the class's own `from_single_file` understands."""
    if flux.is_flux(tensors):
        return flux.translate(tensors)
    if kind is diffusers.UNet2DConditionModel:
        return {f"{_UNET_PREFIX}{name}": tensor for name, tensor in tensors.items()}
    return tensors


def _load_single(kind: Any, folder: Path, part: str, tensors: Tensors) -> Any:
    try:
        return kind.from_single_file(tensors, config=str(folder), subfolder=part, local_files_only=True)
    except KeyError as error:
        raise ValueError(f"its weights are incomplete: {error.args[0]} of {part} is missing") from None
    except NotImplementedError:
        # The class leaves weights that are missing without memory.
        raise ValueError(f"its weights are incomplete: some of {part} are missing") from None
