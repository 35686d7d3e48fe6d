"""Finds LoRA files and converts what different training tools write to what diffusers can read."""

import functools
import json
import logging
import math
import os
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from shared.jobs.requests import LORA_NAME, MAX_LORA_NAME
from worker.models.checkpoints.header import InvalidHeader, read_header
from worker.models.weight_files import SUFFIX

logger = logging.getLogger(__name__)

#: The prefix of PEFT's weight names, and the file with its scaling factors.
_PEFT, _PEFT_CONFIG = "base_model.model.", "adapter_config.json"
#: How names within a text encoder begin.
_TEXT_MODEL = "text_model."
#: The suffix of the scaling factor that a LoRA has for each layer.
_ALPHA = ".alpha"
UNUSABLE = (
    "no part of its path may start with a dot or a space or contain a backslash or invisible characters, and the path "
    f"may have at most {MAX_LORA_NAME} characters"
)
#: Prefixes of weights in files of other kinds that otherwise look like LoRAs.
_OTHER_KINDS = ("hada_", "lokr_")


def find_loras(folder: Path | None) -> dict[str, Path]:
    """Files by the names that requests use: paths below the folder, without the suffix.

    A folder with a single file can also be requested by the folder's name.
    """
    if folder is None:
        return {}
    found, folders = dict[str, Path](), dict[str, Path]()
    for inner, files in walk_files(folder):
        for file in files:
            _add(found, str((inner / file).relative_to(folder))[: -len(SUFFIX)], inner / file)
        if len(files) == 1 and inner != folder:
            folders[_name(str(inner.relative_to(folder)))] = inner / files[0]
    return dict(sorted((name, file) for name, file in (folders | found).items() if _is_usable(name)))


def trigger_words(loras: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """Trigger words of LoRAs by their names, if their files contain any."""
    return {name: words for name, file in loras.items() if (words := _words_in(file))}


def _words_in(file: Path) -> tuple[str, ...]:
    try:
        found = file.stat()
        return _read_words(file, (found.st_size, found.st_mtime_ns))
    except (OSError, InvalidHeader):
        return ()


@functools.lru_cache(maxsize=4096)
def _read_words(file: Path, state: tuple[int, int]) -> tuple[str, ...]:  # noqa: ARG001 - read again when changed
    return read_header(file).spec.trigger_words


def walk_files(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder with its .safetensors files. Symbolic links are followed, but not in circles."""
    seen: set[str] = set()
    for inner, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(inner)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        named = (name for name in files if name.lower().endswith(SUFFIX) and not name.startswith("."))
        yield Path(inner), sorted(name for name in named if Path(inner, name).is_file())


def _name(path: str) -> str:
    """In composed form, as keyboards write it: some file systems store accents as separate characters."""
    return unicodedata.normalize("NFC", path)


def _add(found: dict[str, Path], path: str, file: Path) -> None:
    name = _name(path)
    if not _is_usable(name):
        _log_ignored(repr(str(file)), UNUSABLE)
    elif name in found:
        _log_ignored(str(file), f"{found[name].name} has the same name")
    else:
        found[name] = file


@functools.lru_cache
def _log_ignored(file: str, reason: str) -> None:
    """Once, although the folder is read again and again."""
    logger.warning("ignoring the LoRA %s: %s", file, reason)


def _is_usable(name: str) -> bool:
    # Python represents bytes that are invalid in the file system's encoding as lone surrogates.
    is_text = name.encode(errors="ignore").decode() == name
    return is_text and len(name) <= MAX_LORA_NAME and re.fullmatch(LORA_NAME, name) is not None


class UnusableFile(Exception):
    """The message says why, for the end of a sentence."""


@dataclass(frozen=True)
class DiffusersLora:
    """What diffusers loads a LoRA from, and how many weights the file has."""

    source: str | dict[str, torch.Tensor]
    weights: int


def read_lora(file: Path, denoiser: str, layers: Collection[str]) -> DiffusersLora:
    """`denoiser` is the name of the part that most LoRAs are for, `layers` are those of its layers.

    Raises OSError, SafetensorError and UnusableFile.
    """
    with safe_open(file, "pt") as opened:
        keys = list(opened.keys())
        usable = [key for key in keys if "lora" in key or key.endswith(_ALPHA)]
        count = sum(not key.endswith(_ALPHA) for key in keys)
        if not any("lora" in key for key in usable):
            raise UnusableFile("it has no LoRA weights that diffusers supports")
        if any(key.rpartition(".")[2].startswith(_OTHER_KINDS) for key in keys):
            raise UnusableFile("it is a LoHa or a LoKr, not a LoRA")
        if len(usable) == len(keys) and not any(key.startswith(_PEFT) for key in usable):
            # As a file, because its header may hold scaling factors.
            return DiffusersLora(str(file.absolute()), count)
        weights = {key: opened.get_tensor(key) for key in usable}
    return DiffusersLora(_from_peft(weights, file.with_name(_PEFT_CONFIG), denoiser, layers), count)


def _from_peft(
    weights: dict[str, torch.Tensor], config_file: Path, denoiser: str, layers: Collection[str]
) -> dict[str, torch.Tensor]:
    """Scaled as PEFT's configuration says, and renamed for diffusers unless the names are those of a model's authors:
    diffusers translates such names itself.
    """
    config = json.loads(config_file.read_bytes()) if config_file.is_file() else {}
    names = [key.removeprefix(_PEFT) for key in weights]
    is_renamed = any(name.startswith(_TEXT_MODEL) or name.partition(".lora_")[0] in layers for name in names)
    found: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        if not key.startswith(_PEFT):
            found[key] = tensor
            continue
        name = key.removeprefix(_PEFT)
        layer, is_lora_b, _ = name.partition(".lora_B")
        part = "text_encoder" if name.startswith(_TEXT_MODEL) else denoiser
        found[f"{part}.{name}" if is_renamed else key] = (
            tensor * _scale(config, layer, rank=tensor.shape[1]) if is_lora_b else tensor
        )
    return found


def _scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """PEFT's scaling factor for a layer; diffusers assumes 1."""
    patterns = (config.get("alpha_pattern") or {}).items()
    layer_alphas = (alpha for name, alpha in patterns if f".{layer}".endswith(f".{name}"))
    alpha: float = next(layer_alphas, config.get("lora_alpha") or rank)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
