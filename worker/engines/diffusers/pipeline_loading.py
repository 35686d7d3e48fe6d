"""From a model's folder to a pipeline, in whatever precision and however many files its weights are kept."""

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from shared.errors import ConfigurationError
from worker.engines.diffusers.devices import name_of
from worker.models import weight_files
from worker.models.fingerprint import fingerprint
from worker.models.required_files import parts_of
from worker.models.sources import LocalModel

#: Those that have parts with weight_files.
_LIBRARIES = {"diffusers": diffusers, "transformers": transformers}


def load_pipeline(model: LocalModel, pipeline: str, dtype: torch.dtype, **instead: Any) -> Any:
    """The pipeline on the CPU; `instead` are parts that are not taken from the folder, and settings.

    Raises ConfigurationError with one sentence, whatever the libraries stumble over.
    """
    folder = model.folder
    before = fingerprint([folder])
    try:
        named = parts_of(model.index, model.name).items()
        parts = {name: _load(folder, name, *named_class, dtype) for name, named_class in named if name not in instead}
        pipe = getattr(diffusers, pipeline).from_pretrained(
            str(model.folder),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            **{name: part for name, part in parts.items() if part is not None},
            **instead,
        )
    except Exception as error:
        raise ConfigurationError(f"The model {model.name} could not be loaded: {reason_of(error)}.") from error
    if fingerprint([folder]) != before:
        raise ConfigurationError(
            f"The files of {model.name} changed while it was loaded; start again when they are whole."
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_part(kind: Any, folder: Path, name: str, dtype: torch.dtype) -> Any:
    """One with weights, in the variant that suits the dtype best. Raises whatever its library stumbles over, and
    ValueError where weights are missing: they would be made up.
    """
    chosen = weight_files.choose(_files_in(folder / name), name_of(dtype))
    part, about = kind.from_pretrained(
        str(folder),
        subfolder=name,
        dtype=dtype,
        variant=chosen[0] or None if chosen else None,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if missing := set(about["missing_keys"]) & {key for key, _ in part.named_parameters()}:
        first = "/".join(filter(None, (name, min(missing))))
        raise ValueError(f"its weights are not complete: {first} is missing")
    return part


def reason_of(error: Exception) -> str:
    """For the end of a sentence."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _load(folder: Path, name: str, library: str, kind: str, dtype: torch.dtype) -> Any:
    """None for what has no weights, which the pipeline loads by itself."""
    if weight_files.choose(_files_in(folder / name), name_of(dtype)) is None:
        return None
    found = getattr(_LIBRARIES.get(library), kind, None)
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise TypeError(f"its {name} is a {kind}, which is no model of the installed {library}")
    return load_part(found, folder, name, dtype)


def _files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []
