"""Time and file size of `worker.images.png.encode`, compared with Pillow's default save."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bench.figures import Figure, Goal, Scale, compare, seconds_of
from worker.images.png import encode

Pixels = NDArray[np.uint8]

SIDE = 1024
README = Path(__file__).parents[2] / "docs/images/first-pictures.png"
STARTER = Path(__file__).parents[2] / "worker/models/starter"
TIME_LIMIT = 0.25
SIZE_LIMIT = 1.25


class Kind(NamedTuple):
    name: str
    pixels: Pixels
    #: Typical for what models paint: measured also without --full.
    is_typical: bool = False
    #: Ours / Pillow's; None if the figure has no goal.
    time_limit: float | None = TIME_LIMIT
    size_limit: float | None = SIZE_LIMIT


def by_pillow(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def photo(grain: float) -> Pixels:
    """Colour that varies at every scale, with normally distributed grain of this many levels."""
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
    """An image of the starter model at this size."""
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    pipeline = StableDiffusionPipeline.from_pretrained(STARTER, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    result = pipeline("a red heart", width=side, height=side, num_inference_steps=12, generator=generator)
    image: Image.Image = result.images[0]
    return image


def kinds(thorough: bool) -> Iterator[Kind]:
    yield Kind("photo, grain 0.7", photo(0.7), is_typical=True)
    yield Kind("photo, grain 3.0", photo(3.0), is_typical=True)
    yield Kind("photo, no grain", photo(0))
    yield Kind("images in the README", np.asarray(Image.open(README).convert("RGB")), is_typical=True)
    if thorough:
        yield from painted()
    yield Kind("one colour", np.full((SIDE, SIDE, 3), 77, np.uint8))
    yield Kind("gradient, along the axes", axis_gradient())
    yield Kind("gradient, diagonal, grain 0.7", diagonal_gradient(0.7), is_typical=True)
    # No model paints without any grain: these two show the worst cases of the encoder.
    yield Kind("drawing, no grain", drawing(), time_limit=None)
    yield Kind("gradient, diagonal, no grain", diagonal_gradient(0), time_limit=None, size_limit=None)
    noise = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    yield Kind("noise", noise, time_limit=None)


def painted() -> Iterator[Kind]:
    """Images of the starter model."""
    small, middle = generated(128), generated(512)
    size = (SIDE, SIDE)
    yield Kind("starter 128, enlarged to squares", np.asarray(small.resize(size, Image.Resampling.NEAREST)))
    smooth = Image.Resampling.BICUBIC
    yield Kind("starter 128, enlarged smoothly", np.asarray(small.resize(size, smooth)))
    yield Kind("starter 512, enlarged smoothly", np.asarray(middle.resize(size, smooth)))
    yield Kind("starter 512", np.asarray(middle))
    # Under a millisecond, most of it constant overhead.
    yield Kind("starter 128", np.asarray(small), time_limit=None)


def measure(scale: Scale) -> Iterator[Figure]:
    for kind in kinds(scale.thorough):
        if kind.is_typical or scale.thorough:
            yield from _figures(kind, scale)


def _figures(kind: Kind, scale: Scale) -> Iterator[Figure]:
    ours, pillow = encode(kind.pixels, {}), by_pillow(kind.pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(ours))), kind.pixels)
    result = compare(
        lambda: seconds_of(lambda: encode(kind.pixels, {})),
        lambda: seconds_of(lambda: by_pillow(kind.pixels)),
        scale,
        f"PNG, {kind.name}",
    )
    yield result.figure(
        f"PNG encode / Pillow, {kind.name}",
        Goal(kind.time_limit) if kind.time_limit is not None else None,
        f"{result.our_median * 1000:.1f} ms, Pillow {result.their_median * 1000:.1f} ms",
    )
    limit = Goal(kind.size_limit) if kind.size_limit is not None else None
    detail = f"{len(ours) / 1000:.0f} kB, Pillow {len(pillow) / 1000:.0f} kB"
    yield Figure(f"PNG size / Pillow's, {kind.name}", len(ours) / len(pillow), goal=limit, detail=detail)
