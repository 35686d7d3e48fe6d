"""What of a repository a pipeline needs: its index, and of each part the configuration and one set of safetensors."""

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from shared.errors import ConfigurationError
from worker.models import weight_files

#: The file that says what is in a folder: a pipeline of several parts, or one model by itself.
PIPELINE_INDEX, MODEL_CONFIG = "model_index.json", "config.json"
#: The one part of what is no pipeline.
ROOT = ""
#: Where the parts of a pipeline may come from; any other name would import code that came with the model.
LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion", None})

#: A folder of the repository at most, and no name that begins with a dot: what the hub says becomes paths here.
_PATH = re.compile(r"(?:(?P<part>\w[\w-]*)/)?(?P<file>\w[\w.-]*)", re.ASCII)
_PART = re.compile(r"\w[\w-]*", re.ASCII)
_CONFIGURATION = re.compile(r"[\w-]+\.(?:json|txt|model|jinja)", re.ASCII)
#: Parts that others can stand in for.
_DISPENSABLE = frozenset({"safety_checker"})
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")


def read_index(name: str, text: bytes) -> dict[str, Any]:
    """Raises ConfigurationError."""
    try:
        index = json.loads(text)
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict):
        raise ConfigurationError(f"The index of the model {name} cannot be read.")
    return index


def parts_of(content: dict[str, Any], name: str, index: str = PIPELINE_INDEX) -> dict[str, tuple[str, str]]:
    """The model's parts by the folders that they are in: library and class of each, by the content of its index.

    Raises ConfigurationError where it would bring code of its own.
    """
    if index == MODEL_CONFIG:
        return {ROOT: ("", "")}
    parts = {part: value for part, value in content.items() if isinstance(value, list)}
    if not all(_PART.fullmatch(part) and _is_known(value) for part, value in parts.items()):
        raise ConfigurationError(f"The model {name} needs code of its own, which is never run.")
    return {part: (value[0], value[1]) for part, value in parts.items() if None not in value}


def _is_known(value: list[Any]) -> bool:
    return len(value) == 2 and all(isinstance(each, str | None) for each in value) and value[0] in LIBRARIES


def select_files(
    paths: Collection[str], parts: Iterable[str], name: str, dtype: str, index: str = PIPELINE_INDEX
) -> list[str]:
    """Of the files of a repository, those that these parts need, and the index.

    Weights are taken once, in the precision that suits the dtype best. Raises ConfigurationError for a part that has
    its weights only as pickles, which can run code when they are read.
    """
    found = [path for path in paths if path == index]
    folders: dict[str, dict[str, str]] = {part: {} for part in parts}
    for path in paths:
        match = _PATH.fullmatch(path)
        if path != index and match is not None and (match["part"] or ROOT) in folders:
            folders[match["part"] or ROOT][match["file"]] = path
    for part, inside in folders.items():
        chosen = weight_files.choose(inside, dtype)
        if chosen or not any(own.endswith(_PICKLED) for own in inside):
            found += [path for own, path in inside.items() if _CONFIGURATION.fullmatch(own)]
            found += [inside[own] for own in (chosen[1] if chosen else ())]
        elif part not in _DISPENSABLE:
            raise ConfigurationError(f"The {part or 'model'} of {name} is there only as a pickle, which is never read.")
    return found
