"""Which precision a model gets, and which of its parts stay on the device, from sizes alone."""

from collections.abc import Collection, Mapping
from enum import StrEnum

#: Always stays on the device: it is small, and sometimes needs another precision.
AUTOENCODER = "vae"
#: Where half precision is safe, by whether the family is safe in float16. On Apple's GPU and on CPUs, float16 gives
#: black images (diffusers#6136).
HALF_PRECISION: Mapping[bool, Mapping[str, str]] = {
    True: {"cuda": "float16"},
    False: {"cuda": "bfloat16", "mps": "bfloat16"},
}
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}

#: What an image of a megapixel needs beside the weights. Of Stable Diffusion: two predictions in half precision, and
#: decoding in full precision without tiles. Estimates: batches need more, and get it where there is room.
UNET_BYTES, AUTOENCODER_BYTES = 3 << 29, 3 << 30
#: Of each part of other models, with edits. Measured by others for FLUX.2 Klein 4B on CUDA: 17.3 GiB in all, of which
#: 14.9 GiB are weights.
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
