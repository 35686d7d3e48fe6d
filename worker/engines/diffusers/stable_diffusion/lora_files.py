"""Files with LoRAs, as different tools write them: where they are, and what diffusers can read of them."""

import json
import logging
import math
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from shared.jobs.requests import LORA_NAME, MAX_LORA_NAME

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
#: How PEFT begins the names of what it has added, and where it says how strong that is.
_PEFT, _PEFT_CONFIG = "base_model.model.", "adapter_config.json"
#: What a LoRA has for each layer beside its weights.
_ALPHA = ".alpha"
#: How the weights of other additions begin, in files that are otherwise like those of LoRAs.
_OTHER_KINDS = ("hada_", "lokr_")


def found_in(folder: Path) -> dict[str, Path]:
    """Files by the names that requests have for them: paths below the folder, without the ending.

    A folder that holds one file and no more can be called by its own name, too.
    """
    found: dict[str, Path] = {}
    for inner, files in _walk(folder):
        for file in files:
            _add(found, str((inner / file).relative_to(folder))[: -len(SUFFIX)], inner / file)
    for inner, files in _walk(folder):
        if len(files) == 1 and inner != folder:
            found.setdefault(_name(str(inner.relative_to(folder))), inner / files[0])
    return dict(sorted((name, file) for name, file in found.items() if _is_usable(name)))


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder with its LoRAs. Links are followed, but not in circles."""
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
    """As a keyboard gives it: some systems keep an accent as a character of its own."""
    return unicodedata.normalize("NFC", path)


def _add(found: dict[str, Path], path: str, file: Path) -> None:
    name = _name(path)
    if not _is_usable(name):
        logger.warning(
            "the LoRA %r is left out: no part of its path may begin with a dot or a blank, or have a backslash or "
            "characters that cannot be seen, and all of it may have %d characters",
            str(file),
            MAX_LORA_NAME,
        )
    elif name in found:
        logger.warning("the LoRA %s is left out: %s has the same name", file, found[name].name)
    else:
        found[name] = file


def _is_usable(name: str) -> bool:
    # What is no text in the file system's encoding, is kept by Python as half characters.
    whole = name.encode(errors="ignore").decode() == name
    return whole and len(name) <= MAX_LORA_NAME and re.fullmatch(LORA_NAME, name) is not None


class NoLora(Exception):
    """What a LoRA's file lacks, for the end of a sentence."""


@dataclass(frozen=True)
class Readable:
    """What diffusers can read, and how many weights there are in the file that it was made of."""

    source: Path | dict[str, torch.Tensor]
    weights: int


@contextmanager
def diffusers_lora(file: Path) -> Iterator[Readable]:
    """Raises OSError, SafetensorError, and NoLora."""
    with safe_open(file, "pt") as opened:
        keys = list(opened.keys())
        usable = [key for key in keys if "lora" in key or key.endswith(_ALPHA)]
        count = sum(not key.endswith(_ALPHA) for key in keys)
        if not any("lora" in key for key in usable):
            raise NoLora("it has no weights of a LoRA that diffusers knows")
        if any(key.rpartition(".")[2].startswith(_OTHER_KINDS) for key in keys):
            raise NoLora("it is a LoHa or a LoKr, which only looks like one")
        if len(usable) < len(keys) or any(key.startswith(_PEFT) for key in usable):
            weights = {key: opened.get_tensor(key) for key in usable}
            yield Readable(_without_peft(weights, file.with_name(_PEFT_CONFIG)), count)
            return
    # As it is, because its header may say how strong it is. Diffusers takes what ends otherwise for a pickle.
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"lora{SUFFIX}")
        link.symlink_to(file.absolute())
        yield Readable(link, count)


def _without_peft(weights: dict[str, torch.Tensor], about: Path) -> dict[str, torch.Tensor]:
    """Under diffusers' names, and as strong as PEFT says in a file beside it."""
    config = json.loads(about.read_bytes()) if about.is_file() else {}
    found: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        layer, added, _ = key.partition(".lora_B")
        if key.startswith(_PEFT) and added:
            tensor = tensor * _strength(config, layer.removeprefix(_PEFT), rank=tensor.shape[1])
        found[f"{_part(key)}.{key.removeprefix(_PEFT)}" if key.startswith(_PEFT) else key] = tensor
    return found


def _part(key: str) -> str:
    return "text_encoder" if key.startswith(f"{_PEFT}text_model.") else "unet"


def _strength(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """What PEFT multiplies a layer's addition by; diffusers takes 1 where nothing is said."""
    own = (alpha for name, alpha in (config.get("alpha_pattern") or {}).items() if f".{layer}".endswith(f".{name}"))
    alpha: float = next(own, config.get("lora_alpha") or rank)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
