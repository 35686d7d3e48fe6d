"""Selects the files that a pipeline needs: its index, and the configuration and weights of each part."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from shared.errors import ConfigurationError
from worker.models import weight_files

#: The index of a pipeline with several parts, and the configuration of a single model.
PIPELINE_INDEX, MODEL_CONFIG = "model_index.json", "config.json"
#: The only part of a single model.
ROOT = ""
#: Parts may only come from these libraries; other names would import code from the repository.
LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion", None})

#: At most one folder deep, no leading dots: the hub's file names become paths on this machine.
_PATH = re.compile(r"(?:(?P<part>\w[\w-]*)/)?(?P<file>\w[\w.-]*)", re.ASCII)
_PART = re.compile(r"\w[\w-]*", re.ASCII)
_CONFIGURATION = re.compile(r"[\w-]+\.(?:json|txt|model|jinja)", re.ASCII)
#: Parts that have a replacement.
_OPTIONAL = frozenset({"safety_checker"})


def parts_of(content: dict[str, Any], name: str, index: str = PIPELINE_INDEX) -> dict[str, tuple[str, str]]:
    """Library and class of each part by its folder, from the content of the index.

    Raises ConfigurationError if a part needs code from the repository.
    """
    if index == MODEL_CONFIG:
        return {ROOT: ("", "")}
    parts: dict[str, tuple[str, str]] = {}
    for part, value in content.items():
        # Settings may be lists as well, of numbers.
        if not isinstance(value, list) or (value and all(isinstance(item, int | float) for item in value)):
            continue
        match _library_and_class(value):
            case [str() | None as library, str() | None as kind] if library in LIBRARIES and _PART.fullmatch(part):
                if library and kind:
                    parts[part] = library, kind
            case _:
                raise ConfigurationError(f"The model {name} needs its own code, which this service never runs.")
    return parts


def _library_and_class(value: list[Any]) -> Sequence[Any]:
    """Indexes of modular pipelines also name the origin of a part, and its class there if it was not loaded."""
    if len(value) != 3 or not isinstance(value[2], dict):
        return value
    source = value[2].get("pretrained_model_name_or_path") or value[2].get("repo")
    hint = value[2].get("type_hint")
    return hint if value[:2] == [None, None] and source and isinstance(hint, list) else value[:2]


def select_files(
    paths: Collection[str], parts: Iterable[str], name: str, dtype: str, index: str = PIPELINE_INDEX
) -> list[str]:
    """The index, and the files that these parts need: of the weights, only the variant that suits the dtype best.

    Raises ConfigurationError for a part that has only pickled weights: loading a pickle can run code.
    """
    selected = [path for path in paths if path == index]
    folders: dict[str, dict[str, str]] = {part: {} for part in parts}
    for path in paths:
        match = _PATH.fullmatch(path)
        if path != index and match is not None and (match["part"] or ROOT) in folders:
            folders[match["part"] or ROOT][match["file"]] = path
    for part, files in folders.items():
        _, weights = weight_files.choose_weights(files, dtype)
        if weights or not any(file.endswith(weight_files.PICKLES) for file in files):
            selected += [path for file, path in files.items() if _CONFIGURATION.fullmatch(file)]
            selected += [files[file] for file in weights]
        elif part not in _OPTIONAL:
            raise ConfigurationError(f"The {part or 'model'} of {name} exists only as a pickle, which is never loaded.")
    return selected
