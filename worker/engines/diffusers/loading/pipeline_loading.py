"""Loads a pipeline from a model's folder or file, from weights in any precision, in one file or in shards."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import is_torchvision_available

from shared.errors import ConfigurationError
from worker.engines.diffusers.checkpoints.loading import configured_folder, load_file_part
from worker.engines.diffusers.loading.modular import load_modular
from worker.engines.diffusers.loading.part_classes import has_weights, part_class, require_weights
from worker.engines.diffusers.memory.devices import dtype_name
from worker.engines.diffusers.memory.errors import reason_of
from worker.engines.diffusers.memory.shared_parts import PartLoading
from worker.models import weight_files
from worker.models.contents.fingerprint import fingerprint
from worker.models.local_model import LocalModel, ModelFormat

#: Parts of FLUX.2 dev, Qwen-Image-Edit and Kandinsky 5. transformers itself fails there without naming the reason.
_NEED_TORCHVISION = frozenset({"PixtralProcessor", "Qwen2VLProcessor", "Qwen2_5_VLProcessor"})


def load_pipeline(model: LocalModel, pipeline: Any, dtype: torch.dtype, parts: PartLoading) -> Any:
    """The pipeline, on the CPU but for parts that other models have already.

    Raises ConfigurationError for every error of the libraries.
    """
    files = {model.path, model.folder}
    try:
        before = fingerprint(files)
        with configured_folder(model) as folder:
            pipe = _from_folder(folder, model, pipeline, dtype, parts)
        has_changed = fingerprint(files) != before
    except Exception as error:
        raise ConfigurationError(f"The model {model.name} could not be loaded: {reason_of(error)}.") from error
    if has_changed:
        raise ConfigurationError(
            f"The files of {model.name} changed while they were loaded; start again when they are complete."
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _from_folder(folder: Path, model: LocalModel, pipeline: Any, dtype: torch.dtype, loading: PartLoading) -> Any:
    left_out = _left_out(pipeline)
    parts = {
        name: loading.get(name, partial(_load, model, folder, name, *names, dtype))
        for name, names in model.parts.items()
        if name not in left_out
    }
    if model.format is ModelFormat.MODULAR:
        return load_modular(model, pipeline, parts)
    return pipeline.from_pretrained(
        str(folder),
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        **{name: part for name, part in parts.items() if part is not None},
        **left_out,
    )


def _left_out(pipeline: Any) -> dict[str, Any]:
    """The engine itself runs the safety checker, on finished images; and it adds no watermark."""
    known = inspect.signature(pipeline.__init__).parameters
    settings = {"requires_safety_checker": False, "add_watermarker": False}
    parts = {"safety_checker": None, "feature_extractor": None} if "safety_checker" in known else {}
    return parts | {name: value for name, value in settings.items() if name in known}


def load_part(kind: Any, folder: Path, name: str, dtype: torch.dtype) -> Any:
    """A part with weights, in the variant that suits the dtype best.

    Raises what the library raises, and ValueError if weights are missing.
    """
    chosen = weight_files.choose_weights([path.name for path in (folder / name).glob("*")], dtype_name(dtype))
    part, info = kind.from_pretrained(
        str(folder),
        subfolder=name,
        dtype=dtype,
        variant=chosen[0] or None if chosen else None,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    require_weights(part, name, info)
    return part


def _load(model: LocalModel, folder: Path, name: str, library: str, kind: str, dtype: torch.dtype) -> Any:
    """None for a part without weights: the pipeline loads it itself."""
    found = part_class(library, kind)
    if kind in _NEED_TORCHVISION and not is_torchvision_available():
        raise TypeError(f"its {name} is a {kind}, which needs torchvision; install it for this version of torch")
    is_in_file = name in model.file_parts
    if not is_in_file and not weight_files.weights_in(folder / name, dtype_name(dtype)):
        return None
    if not has_weights(found):
        raise TypeError(f"its {name} is a {kind}, which the installed {library} does not have")
    if is_in_file:
        return load_file_part(found, model, folder, name, dtype)
    return load_part(found, folder, name, dtype)
