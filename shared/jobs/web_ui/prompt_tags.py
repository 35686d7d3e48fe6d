"""Reads the LoRAs that the web UI's prompts hold besides text."""

import math
import re
from collections.abc import Sequence
from typing import Any

from shared.jobs.requests import MAX_LORAS

#: `<lora:name:scale>`
_NETWORK = re.compile(r"<(lora|lyco|hypernet):([^<>:]{1,200})(?::([^<>]{0,100}))?>", re.IGNORECASE)
#: The scales that requests may have.
MIN_SCALE, MAX_SCALE = -2.0, 2.0


def _scale(text: str) -> float:
    """The number for the image model, such as 0.8 in `0.8`, `0.8:0.5` and `0.5:unet=0.8`; 1 without one."""
    parts = text.split(":")
    named = next((part.removeprefix("unet=") for part in parts if part.startswith("unet=")), parts[0])
    try:
        scale = float(named)
    except ValueError:
        return 1.0
    return scale if math.isfinite(scale) else 1.0


def extract_loras(prompt: str, offered: Sequence[str]) -> tuple[str, list[dict[str, Any]], list[str]]:
    """The prompt without tags, the LoRAs that it names, and warnings about those that cannot be used."""
    tags = _NETWORK.findall(prompt)
    scales, warnings = dict[str, float](), list[str]()
    for kind, wanted, scale_text in tags:
        name = _offered_name(wanted.strip(), offered) if kind.lower() != "hypernet" else None
        if name is None:
            warnings.append(f"the {kind.lower()} {wanted.strip()!r} is left out: this model has none of this name")
            continue
        scale = _scale(scale_text)
        scales[name] = max(MIN_SCALE, min(scale, MAX_SCALE))
        if scales[name] != scale:
            warnings.append(f"the scale of the LoRA {name} is limited to {scales[name]:g}")
    if len(scales) > MAX_LORAS:
        warnings.append(f"only the first {MAX_LORAS} LoRAs are used")
    loras = [{"name": name, "scale": scale} for name, scale in list(scales.items())[:MAX_LORAS]]
    return _NETWORK.sub("", prompt).strip() if tags else prompt, loras, warnings


def _offered_name(name: str, offered: Sequence[str]) -> str | None:
    """Names may leave out the folder."""
    if name in offered:
        return name
    return next((known for known in offered if known.rpartition("/")[2].casefold() == name.casefold()), None)
