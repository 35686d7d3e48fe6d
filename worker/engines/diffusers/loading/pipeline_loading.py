"""Loads a pipeline from a model's folder or file, from weights in any precision, in one file or in shards."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import is_torchvision_available

from shared.errors import ConfigurationError
from worker.engines.diffusers.checkpoints.loading import configured_folder, load_file_part
from worker.engines.diffusers.loading.part_classes import part_class, require_weights
from worker.engines.diffusers.loading.pipeline_classes import assembled, init_parameters
from worker.engines.diffusers.memory.devices import dtype_name
from worker.engines.diffusers.memory.errors import reason_of
from worker.engines.diffusers.memory.shared_parts import PartLoading
from worker.models import weight_files
from worker.models.contents.fingerprint import fingerprint
from worker.models.local_model import LocalModel

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
    return pipe


def _from_folder(folder: Path, model: LocalModel, pipeline: Any, dtype: torch.dtype, loading: PartLoading) -> Any:
    """As the pipeline's own `from_pretrained`, but for how its parts are loaded."""
    known = init_parameters(pipeline)
    # The engine itself runs the safety checker, on finished images; and it adds no watermark.
    given: dict[str, Any] = {"requires_safety_checker": False, "add_watermarker": False}
    given |= {"safety_checker": None, "feature_extractor": None} if "safety_checker" in known else {}
    for name, names in model.parts.items():
        if name in known and name not in given:
            given[name] = loading.get(name, partial(_load, model, folder, name, *names, dtype))
    settings = {name: None if _is_no_part(value) else value for name, value in model.index.items()}
    return assembled(pipeline, dict.fromkeys(pipeline._optional_components) | settings | given)


def _is_no_part(value: Any) -> bool:
    return isinstance(value, list) and value[:2] == [None, None]


def load_part(kind: Any, folder: Path, name: str, dtype: torch.dtype) -> Any:
    """A part with weights, in the variant that suits the dtype best.

    Raises what the library raises, and ValueError if weights are missing.
    """
    variant, _ = weight_files.choose_weights([path.name for path in (folder / name).glob("*")], dtype_name(dtype))
    part, info = kind.from_pretrained(
        str(folder),
        subfolder=name,
        dtype=dtype,
        variant=variant or None,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    require_weights(part, name, info)
    return part


def _load(model: LocalModel, folder: Path, name: str, library: str, kind: str, dtype: torch.dtype) -> Any:
    if kind in _NEED_TORCHVISION and not is_torchvision_available():
        raise TypeError(f"its {name} is a {kind}, which needs torchvision; install it for this version of torch")
    found, is_in_file = part_class(library, kind), name in model.file_parts
    has_weights = is_in_file or bool(weight_files.weights_in(folder / name, dtype_name(dtype)))
    takes_weights = found is not None and issubclass(found, torch.nn.Module)
    if found is None or (has_weights and not takes_weights):
        raise TypeError(f"its {name} is a {kind}, which the installed {library} does not have")
    if is_in_file:
        return load_file_part(found, model, folder, name, dtype)
    if takes_weights:
        return load_part(found, folder, name, dtype)
    options = {"trust_remote_code": False} if library == "transformers" else {}
    return found.from_pretrained(str(folder / name), local_files_only=True, **options)
