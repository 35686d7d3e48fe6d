"""Chooses the weight files of a part: repositories hold them in several precisions, whole or in shards."""

import re
from collections.abc import Iterable
from pathlib import Path

SUFFIX = ".safetensors"
#: Files that may hold a model. Order matters where names are the same: the first one gets the name.
FILE_SUFFIXES = (SUFFIX, ".gguf")
#: Never loaded.
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
ALL_SUFFIXES = (*FILE_SUFFIXES, *PICKLES)
#: `model.fp16.safetensors`, `model-00001-of-00002.safetensors`, `model.safetensors.index.fp16.json` and similar names
#: of current and earlier versions of diffusers and transformers.
_FILE = re.compile(
    r"(?:model|diffusion_pytorch_model)(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?(?:\.(?P<older>\w+))?\.safetensors"
    r"(?:\.index(?:\.(?P<map>[\w-]+))?\.json)?",
    re.ASCII,
)
#: Preferred variants by dtype; "" is the unnamed one. For half precision, half of the bytes suffice, whichever of the
#: two formats they are in.
_FULL = ("", "fp32", "bf16", "fp16")
_ORDER = {"float32": _FULL, "bfloat16": ("bf16", "fp16", "", "fp32"), "float16": ("fp16", "bf16", "", "fp32")}


def choose_weights(names: Iterable[str], dtype: str) -> tuple[str, list[str]]:
    """From the files of a part: the variant that suits the dtype best ("" for the unnamed one), and its files.

    `auto` counts as half precision. There are no files without safetensors.
    """
    variants: dict[str, list[str]] = {}
    for name in names:
        if match := _FILE.fullmatch(name):
            variants.setdefault(match["variant"] or match["older"] or match["map"] or "", []).append(name)
    # A shard index alone holds no weights.
    found = [variant for variant, files in variants.items() if any(name.endswith(SUFFIX) for name in files)]
    order = _ORDER.get(dtype, _ORDER["float16"])
    best = min(
        found, key=lambda variant: (order.index(variant) if variant in order else len(order), variant), default=""
    )
    return best, variants[best] if found else []


def weights_in(folder: Path, dtype: str) -> list[Path]:
    """The files with the weights of a part that are loaded; none for a part without weights."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    _, chosen = choose_weights(names, dtype)
    return [folder / name for name in sorted(chosen) if name.endswith(SUFFIX)]


_SHARD = re.compile(r"(?P<start>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\.[\w.-]+)", re.ASCII)
_MAX_SHARDS = 2000


def missing_shard(names: Iterable[str]) -> str | None:
    """The name of the first shard that the others count, and that is not there."""
    present = set(names)
    series = {(match["start"], match["count"], match["end"]) for name in present if (match := _SHARD.fullmatch(name))}
    for start, count, end in sorted(series):
        for number in range(1, min(int(count), _MAX_SHARDS) + 1):
            if (name := f"{start}-{number:05}-of-{count}{end}") not in present:
                return name
    return None
