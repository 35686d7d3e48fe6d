"""How AUTOMATIC1111's web UI enlarges an image and renders it again (hires fix)."""

from dataclasses import dataclass
from math import sqrt
from typing import Any

#: The web UI's defaults.
DEFAULT_SCALE, DEFAULT_STRENGTH = 2.0, 0.7
#: Limits of requests.
MIN_SCALE, MAX_SCALE, MIN_STRENGTH = 1.0, 4.0, 0.01


@dataclass(frozen=True)
class HiresFix:
    scale: float | None
    resize: tuple[int, int]
    """The target size, which takes precedence over the scale; a side of 0 follows from the other."""
    strength: float | None
    steps: int | None

    def fields(self, size: tuple[int, int], max_pixels: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Fields of a request for an image of this size, and a warning if it is enlarged by another factor."""
        width, height = max(1, size[0]), max(1, size[1])
        wanted = max(self.resize[0] / width, self.resize[1] / height) or self.scale or DEFAULT_SCALE
        scale = max(MIN_SCALE, min(wanted, MAX_SCALE, sqrt(max_pixels / (width * height))))
        warnings = () if scale == wanted else (f"the image is enlarged {scale:.3g} times, not {wanted:.3g} times",)
        strength = DEFAULT_STRENGTH if self.strength is None else self.strength
        second = {"scale": scale, "strength": max(MIN_STRENGTH, strength)}
        steps = {"num_inference_steps": self.steps} if self.steps else {}
        output = {"output_width": int(size[0] * scale), "output_height": int(size[1] * scale)}
        return {"second_pass": {**second, **steps}, **output}, warnings
