"""What of a repository a pipeline needs: its index, and of each part the configuration and one set of safetensors."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import ConfigurationError

#: The file that says what is in a folder: a pipeline of several parts, or one model by itself.
INDEX, CONFIG = "model_index.json", "config.json"
#: The one part of what is no pipeline.
ROOT = ""
#: Where the parts of a pipeline may come from; any other name would import code that came with the model.
LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion", None})

#: A folder of the repository at most, and no name that begins with a dot: what the hub says becomes paths here.
_PATH = re.compile(r"(?:(?P<part>\w[\w-]*)/)?(?P<file>\w[\w.-]*)", re.ASCII)
_CONFIGURATION = re.compile(r"[\w-]+\.(?:json|txt|model|jinja)", re.ASCII)
_WEIGHTS = re.compile(
    r"(?P<stem>model|diffusion_pytorch_model)(?P<half>\.fp16)?(?P<shard>-\d+-of-\d+)?\.safetensors"
    r"|(?P<map>model|diffusion_pytorch_model)\.safetensors\.index(?P<half_map>\.fp16)?\.json",
    re.ASCII,
)
#: Parts that others can stand in for.
_DISPENSABLE = frozenset({"safety_checker"})
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; `sha256` is known of large files only."""

    path: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Wanted:
    """A file to be had, and the path under which it is kept."""

    file: RemoteFile
    path: str


def read_index(name: str, text: bytes) -> dict[str, Any]:
    """Raises ConfigurationError."""
    try:
        index = json.loads(text)
    except ValueError:
        index = None
    if not isinstance(index, dict):
        raise ConfigurationError(f"The index of the model {name} cannot be read.")
    return index


def parts_of(content: dict[str, Any], name: str, index: str = INDEX) -> list[str]:
    """Folders that the model's parts are in, by the content of its index.

    Raises ConfigurationError where it would bring code of its own.
    """
    if index == CONFIG:
        return [ROOT]
    parts = {part: value for part, value in content.items() if isinstance(value, list)}
    if not all(value and value[0] in LIBRARIES for value in parts.values()):
        raise ConfigurationError(f"The model {name} needs code of its own, which is never run.")
    return [part for part, value in parts.items() if value[0] is not None]


def wanted(
    files: Iterable[RemoteFile], parts: Sequence[str], name: str, *, half: bool, index: str = INDEX
) -> list[Wanted]:
    """Everything for these parts, the index last: where it lies, the model is complete.

    With `half`, weights that are there in half precision as well are taken in that: half the bytes. They are kept
    under the usual names, so that nobody has to know when loading. Raises ConfigurationError for a part that has
    its weights only as pickles, which can run code when they are read.
    """
    found: list[Wanted] = []
    last: list[Wanted] = []
    folders: dict[str, list[tuple[str, RemoteFile]]] = {part: [] for part in parts}
    for file in files:
        match = _PATH.fullmatch(file.path)
        if file.path == index:
            last.append(Wanted(file, index))
        elif match is not None and (match["part"] or ROOT) in folders:
            folders[match["part"] or ROOT].append((match["file"], file))
    for part, inside in folders.items():
        weights = _weights(part, inside, half=half)
        safe = any(entry.path.endswith(".safetensors") for entry in weights)
        if safe or not any(own.endswith(_PICKLED) for own, _ in inside):
            found += [Wanted(file, file.path) for own, file in inside if _CONFIGURATION.fullmatch(own)]
            found += weights
        elif part not in _DISPENSABLE:
            raise ConfigurationError(f"The {part or 'model'} of {name} is there only as a pickle, which is never read.")
    return found + last


def _weights(part: str, inside: Sequence[tuple[str, RemoteFile]], *, half: bool) -> list[Wanted]:
    sets: dict[bool, list[Wanted]] = {True: [], False: []}
    for own, file in inside:
        if match := _WEIGHTS.fullmatch(own):
            path = "/".join(filter(None, (part, _usual_name(match))))
            sets[bool(match["half"] or match["half_map"])].append(Wanted(file, path))
    return sets[half] or sets[not half]


def _usual_name(match: re.Match[str]) -> str:
    """Without the variant; but shards are called as their map calls them."""
    if match["map"]:
        return f"{match['map']}.safetensors.index.json"
    return match[0] if match["shard"] else f"{match['stem']}.safetensors"
