"""How long `worker.png.encode` takes beside Pillow's default save, and how large its files are.

    python bench/png.py [--rounds N]

Prints for every kind of picture the medians of interleaved rounds and their ratio. `noise` says by how much the same
encoder, measured against itself, was off in this run. Exits with 1 when a picture goes over its limits.
"""

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from worker.png import encode

Pixels = NDArray[np.uint8]

SIDE = 1024
STARTER = Path(__file__).parent.parent / "worker/models/starter"
TIME_LIMIT = 0.25
SIZE_LIMIT = 1.25


class Kind(NamedTuple):
    name: str
    pixels: Pixels
    #: Ours over Pillow's; None where the figure is only reported.
    time_limit: float | None = TIME_LIMIT
    size_limit: float | None = SIZE_LIMIT


class Result(NamedTuple):
    """Seconds for one picture, and by how much they may be off, as a fraction."""

    ours: float
    pillow: float
    noise: float


def by_pillow(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def photo(grain: float) -> Pixels:
    """Colour that varies at every scale, with normal grain of this many levels."""
    rng = np.random.default_rng(0)
    total = np.full((SIDE, SIDE, 3), 110.0)
    for cells in (4, 8, 16, 32, 64, 128, 256):
        for channel in range(3):
            layer = Image.fromarray(rng.normal(0, 90 / cells**0.75, (cells, cells)).astype(np.float32))
            total[..., channel] += np.asarray(layer.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return (total + rng.normal(0, grain, total.shape)).clip(0, 255).astype(np.uint8)


def drawing() -> Pixels:
    image = Image.new("RGB", (SIDE * 4, SIDE * 4), "white")
    rng = np.random.default_rng(1)
    for x, y, radius in rng.integers((0, 0, 100), (SIDE * 4, SIDE * 4, 1000), (12, 3)).tolist():
        colour = tuple(rng.integers(0, 256, 3).tolist())
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def axis_gradient() -> Pixels:
    down, across = np.mgrid[:SIDE, :SIDE] * (255 / SIDE)
    return np.stack([down, across, np.full_like(down, 80)], -1).astype(np.uint8)


def diagonal_gradient(grain: float) -> Pixels:
    down, across = np.mgrid[:SIDE, :SIDE] * (255 / SIDE)
    slope = (down + across)[..., None] / 2 * np.array([0.9, -0.5, 0.2]) + np.array([10, 200, 90])
    grained = slope + np.random.default_rng(2).normal(0, grain, slope.shape)
    return np.asarray(grained.clip(0, 255), np.uint8)


def generated(side: int) -> Image.Image:
    """What the starter model draws at this size."""
    pipeline = StableDiffusionPipeline.from_pretrained(STARTER, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    answer = pipeline("a red heart", width=side, height=side, num_inference_steps=12, generator=generator)
    image: Image.Image = answer.images[0]
    return image


def kinds() -> Iterator[Kind]:
    yield Kind("photo, grain 0.7", photo(0.7))
    yield Kind("photo, grain 3.0", photo(3.0))
    yield Kind("photo, no grain", photo(0))
    small, middle = generated(128), generated(512)
    size = (SIDE, SIDE)
    yield Kind("starter 128, enlarged to squares", np.asarray(small.resize(size, Image.Resampling.NEAREST)))
    yield Kind("starter 128, enlarged smoothly", np.asarray(small.resize(size, Image.Resampling.BICUBIC)))
    yield Kind("starter 512, enlarged smoothly", np.asarray(middle.resize(size, Image.Resampling.BICUBIC)))
    yield Kind("starter 512", np.asarray(middle))
    # Under a millisecond, most of it the same for every size.
    yield Kind("starter 128", np.asarray(small), time_limit=None)
    yield Kind("one colour", np.full((SIDE, SIDE, 3), 77, np.uint8))
    yield Kind("gradient, along the axes", axis_gradient())
    yield Kind("gradient, diagonal, grain 0.7", diagonal_gradient(0.7))
    # No model paints without any grain: these two show where the encoder is at its worst.
    yield Kind("drawing, no grain", drawing(), time_limit=None)
    yield Kind("gradient, diagonal, no grain", diagonal_gradient(0), time_limit=None, size_limit=None)
    noise = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    yield Kind("noise", noise, time_limit=None)


def measured(pixels: Pixels, rounds: int) -> Result:
    """Ours, Pillow, ours, Pillow in every round, so that each first run has a second to be compared with."""
    runs: tuple[Callable[[], bytes], ...] = (lambda: encode(pixels, {}), lambda: by_pillow(pixels)) * 2
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, spent in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            spent.append(time.perf_counter() - start)
    first, pillow, again, pillow_again = map(statistics.median, seconds)
    noise = max(abs(first / again - 1), abs(pillow / pillow_again - 1))
    return Result(statistics.median(seconds[0] + seconds[2]), statistics.median(seconds[1] + seconds[3]), noise)


def is_within_limits(kind: Kind, rounds: int) -> bool:
    """Measure one kind of picture and print its line."""
    file = encode(kind.pixels, {})
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))), kind.pixels)
    result = measured(kind.pixels, rounds)
    time_ratio, size_ratio = result.ours / result.pillow, len(file) / len(by_pillow(kind.pixels))
    within = (kind.time_limit is None or time_ratio <= kind.time_limit) and (
        kind.size_limit is None or size_ratio <= kind.size_limit
    )
    print(
        f"{kind.name:34}{result.ours * 1000:8.1f}{result.pillow * 1000:8.1f}{time_ratio:8.3f}{result.noise:8.1%}"
        f"{len(file) / 1000:9.1f}{size_ratio:8.2f}  {'' if within else 'OVER'}",
        flush=True,
    )
    return within


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"{'':34}{'ms':>8}{'Pillow':>8}{'ratio':>8}{'noise':>8}{'kB':>9}{'ratio':>8}")
    within = [is_within_limits(kind, rounds) for kind in kinds()]
    return 0 if all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
