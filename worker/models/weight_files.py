"""Which files hold the weights of a part: publishers keep them in several precisions, whole or in shards."""

import re
from collections.abc import Iterable

SUFFIX = ".safetensors"
#: `model.fp16.safetensors`, `model-00001-of-00002.safetensors`, `model.safetensors.index.fp16.json` and their like,
#: as diffusers and transformers write them now and wrote them before.
_FILE = re.compile(
    r"(?:model|diffusion_pytorch_model)(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?(?:\.(?P<older>\w+))?\.safetensors"
    r"(?:\.index(?:\.(?P<map>[\w-]+))?\.json)?",
    re.ASCII,
)
#: Variants by what computes with them, best first; no name is the usual one. Half of the bytes are enough for half
#: precision, whichever half it is.
_FULL = ("", "fp32", "bf16", "fp16")
_ORDER = {"float32": _FULL, "bfloat16": ("bf16", "fp16", "", "fp32"), "float16": ("fp16", "bf16", "", "fp32")}


def choose(names: Iterable[str], dtype: str) -> tuple[str, list[str]] | None:
    """Of the files of a part: the variant that suits the dtype best ("" for the usual one), and the files of it.

    `auto` is taken for half precision. None where there are no safetensors.
    """
    variants: dict[str, list[str]] = {}
    for name in names:
        if match := _FILE.fullmatch(name):
            variants.setdefault(match["variant"] or match["older"] or match["map"] or "", []).append(name)
    # A map alone holds no weights.
    found = [variant for variant, files in variants.items() if any(name.endswith(SUFFIX) for name in files)]
    order = _ORDER.get(dtype, _ORDER["float16"])
    best = min(
        found, key=lambda variant: (order.index(variant) if variant in order else len(order), variant), default=None
    )
    return None if best is None else (best, variants[best])
