"""The bundled configurations of the parts of common models, and their tokenizers."""

import json
import lzma
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
#: Beside configurations.json.
TOKENIZERS = _FOLDER / "tokenizers"
#: The tokenizer of OpenCLIP fills prompts up with the token 0.
_ZERO_PADDED = {"clip-zero": ("clip", {"pad_token": "!"})}

_CLASSES = {
    "clip": "CLIPTokenizer",
    "clip-zero": "CLIPTokenizer",
    "t5": "T5TokenizerFast",
    "qwen3": "Qwen2Tokenizer",
}


@cache
def _bundled() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((_FOLDER / "configurations.json").read_bytes())
    return content


def pipeline_of(family: str) -> str:
    return str(_bundled()["families"][family]["_class_name"])


def names_of_parts(family: str) -> dict[str, str]:
    """The bundled configuration or tokenizer of each part, by part."""
    return dict(_bundled()["families"][family]["parts"])


def configuration(name: str) -> dict[str, Any]:
    """A copy."""
    return dict(_bundled()["parts"][name])


def index_of(family: str) -> dict[str, Any]:
    """What the model_index.json of such a model holds."""
    entry = _bundled()["families"][family]
    parts = {part: list(_class_of(name)) for part, name in entry["parts"].items()}
    return {"_class_name": entry["_class_name"], **parts, **entry["extra"]}


def is_tokenizer(name: str) -> bool:
    return name in _CLASSES


def write_tokenizer(name: str, folder: Path) -> None:
    """Write the files of a bundled tokenizer."""
    packed, changes = _ZERO_PADDED.get(name, (name, {}))
    # Texts of files by name: the largest has 11 MB, which is not parsed here.
    files: Mapping[str, str] = json.loads(lzma.decompress((TOKENIZERS / f"{packed}.json.xz").read_bytes()))
    folder.mkdir(parents=True)
    for file, text in files.items():
        is_changed = changes and file == "tokenizer_config.json"
        content = json.dumps({**json.loads(text), **changes}) if is_changed else text
        (folder / file).write_text(content, encoding="utf-8")


def _class_of(name: str) -> tuple[str, str]:
    if name in _CLASSES:
        return "transformers", _CLASSES[name]
    config = configuration(name)
    if "_class_name" in config:
        return "diffusers", config["_class_name"]
    return "transformers", config["architectures"][0]
