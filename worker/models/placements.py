"""Which precision a model gets, and which of its parts stay on the device, from sizes alone."""

import importlib.util
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum
from typing import assert_never

from shared.settings.explanations import install_command

#: Always stays on the device: it is small, and sometimes needs another precision.
AUTOENCODER = "vae"
#: Where half precision is safe, by whether the family is safe in float16. On Apple's GPU and on CPUs, float16 gives
#: black images (diffusers#6136).
HALF_PRECISION: Mapping[bool, Mapping[str, str]] = {
    True: {"cuda": "float16"},
    False: {"cuda": "bfloat16", "mps": "bfloat16"},
}
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}

#: What an image of a megapixel needs besides the weights. For Stable Diffusion: two predictions in half precision, and
#: decoding in full precision without tiles. Estimates: batches need more, and get it where there is room.
UNET_BYTES, AUTOENCODER_BYTES = 3 << 29, 3 << 30
#: The same for each part of other models, edits included. Measured by others for FLUX.2 Klein 4B on CUDA: 17.3 GiB in
#: all, of which 14.9 GiB are weights.
WORKING_BYTES = 3 << 30


class Placement(StrEnum):
    RESIDENT = "resident"
    """Everything stays on the device: fastest."""
    MODEL_OFFLOAD = "model-offload"
    """One part at a time is on the device, the others wait in main memory."""
    GROUP_OFFLOAD = "group-offload"
    """A few layers at a time are on the device, beside the autoencoder: slowest, needs least memory."""


def choose_placement(sizes: Mapping[str, int], free: int | None, working: Mapping[str, int]) -> Placement:
    """`sizes` are the bytes of each part, `working` the bytes that a part needs in addition while it computes.

    `free` are the free bytes of the device; None if offloading gains nothing there.
    """
    if free is None or sum(sizes.values()) + max(working.values(), default=0) <= free:
        return Placement.RESIDENT
    if max(size + working.get(part, 0) for part, size in sizes.items()) <= free:
        return Placement.MODEL_OFFLOAD
    return Placement.GROUP_OFFLOAD


def working_bytes(parts: Collection[str], pixels: int, width: int) -> dict[str, int]:
    """For one image of this size; `width` are the bytes of a weight. Larger jobs use fallbacks."""
    if "unet" not in parts:
        return dict.fromkeys(parts, WORKING_BYTES)
    megapixels = pixels / (1 << 20)
    return {"unet": int(UNET_BYTES * megapixels * width / 2), AUTOENCODER: int(AUTOENCODER_BYTES * megapixels)}


class Quantization(StrEnum):
    """How weights are stored. All of them compute in the model's own precision."""

    NONE = "none"
    FP8 = "fp8"
    """Layers of the denoiser are eight-bit floats until they compute: needs no other library."""
    EIGHT_BIT = "8bit"
    """Matrices of the denoiser and of the text encoders are integers of eight bits."""
    FOUR_BIT = "4bit"

    @property
    def width(self) -> float | None:
        """Bytes of a number, with the scales; None where it stays as it is."""
        return {"none": None, "fp8": 1.0, "8bit": 1.02, "4bit": 0.54}[self]

    def parts(self, names: Iterable[str], denoiser: str) -> list[str]:
        """The parts of a model that it changes."""
        texts = [name for name in names if "text_encoder" in name and self not in (Quantization.NONE, Quantization.FP8)]
        return [denoiser, *texts]

    def obstacle(self, device: str, *, in_bfloat16: bool, is_compressed: bool) -> str | None:
        """Why it cannot be used, to follow the name of the setting. `device` is the kind of a device."""
        match self:
            case Quantization.NONE:
                return None
            case Quantization.FP8:
                return "cannot convert weights that are compressed" if is_compressed else None
            case Quantization.EIGHT_BIT | Quantization.FOUR_BIT:
                if importlib.util.find_spec("torchao") is None:
                    return f"needs the package torchao: {install_command('quantize')}"
                if self is Quantization.EIGHT_BIT:
                    return None
                if device != "cuda":
                    return "needs an NVIDIA GPU; 8bit works everywhere"
                return None if in_bfloat16 else "needs SD_DTYPE=bfloat16"
            case _:
                assert_never(self)


def choose_quantization(
    setting: str,
    sizes: Callable[[Quantization], Mapping[str, int]],
    obstacle: Callable[[Quantization], str | None],
    free: int | None,
    working: Mapping[str, int],
) -> tuple[Quantization, dict[Quantization, str]]:
    """What SD_QUANTIZE says, and why it, or what would have been preferred to it, cannot be used.

    `auto` takes the first step with which all of a model fits; NONE if nothing suffices: then parts wait in main
    memory, unquantized.
    """
    if setting not in ("off", "auto"):
        step = Quantization(setting)
        return step, {step: reason} if (reason := obstacle(step)) else {}
    obstacles: dict[Quantization, str] = {}
    for step in Quantization if setting == "auto" else ():
        if choose_placement(sizes(step), free, working) is Placement.RESIDENT:
            if (reason := obstacle(step)) is None:
                return step, obstacles
            obstacles[step] = reason
    return Quantization.NONE, obstacles
