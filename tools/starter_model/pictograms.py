"""The training images: 128x128 compositions of flat pictograms."""

import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .errors import StarterModelError
from .scenes import Scene, Thing, compose
from .vocabulary import Vocabulary

SIZE = 128
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
JITTER = 8
"""How far, of 255, a painted colour may stray in each channel."""
BACKGROUND_JITTER = 6

# Share of the image's width that a pictogram fills.
SCALE, SMALL_SCALE, PAIR_SCALE = 0.86, 0.42, 0.48
NUDGE = 0.02
"""How far a single pictogram may stray from the middle, in half widths."""


@dataclass(frozen=True)
class Studio:
    """Draws scenes. Every method that is given a generator takes its numbers in a fixed order."""

    vocabulary: Vocabulary
    pictograms: Tensor
    """uint8 RGBA, (words, 4, SIZE, SIZE)."""

    def draw(self, scene: Scene, rng: random.Random) -> Tensor:
        """(3, SIZE, SIZE), 0..1."""
        canvas = self._canvas(scene.background, rng)
        layers = [self._layer(thing, rng) for thing in scene.things]
        if len(layers) == 2:
            left, right = _place(layers[0], PAIR_SCALE, -0.48, 0), _place(layers[1], PAIR_SCALE, 0.48, 0)
            return _over(_over(canvas, left), right).clamp(0, 1)
        scale = SMALL_SCALE if scene.small else SCALE
        placed = _place(layers[0], scale, rng.uniform(-NUDGE, NUDGE), rng.uniform(-NUDGE, NUDGE))
        return _over(canvas, placed).clamp(0, 1)

    def random_images(self, rng: random.Random, count: int) -> Tensor:
        """Images of fresh scenes, as `as_training_batch` gives them."""
        return as_training_batch([self.draw(compose(self.vocabulary, rng)[0], rng) for _ in range(count)])

    def _canvas(self, background: str | None, rng: random.Random) -> Tensor:
        # White, asked for or not, stays pure; it still takes its three numbers.
        coloured = background not in (None, "white")
        colour = self._colour(background or "white", rng, BACKGROUND_JITTER if coloured else 0)
        return colour.view(3, 1, 1).expand(3, SIZE, SIZE)

    def _layer(self, thing: Thing, rng: random.Random) -> Tensor:
        """RGBA, (4, SIZE, SIZE), 0..1."""
        rgba = self.pictograms[thing.word].float() / 255
        return _tint(rgba, self._colour(thing.colour, rng, JITTER)) if thing.colour else rgba

    def _colour(self, name: str, rng: random.Random, jitter: int) -> Tensor:
        """(3,), 0..1."""
        channels = self.vocabulary.colours[name]
        return torch.tensor([min(255, max(0, c + rng.randint(-jitter, jitter))) for c in channels]) / 255.0


def open_studio(package: Path, vocabulary: Vocabulary) -> Studio:
    """Rasterise what the vocabulary names from the unpacked package: about 300 pictograms, a few seconds."""
    source = package / "icons.json"
    if not source.is_file():
        raise StarterModelError(f"{source} is missing: run the step 'fetch' first")
    icons = json.loads(source.read_text(encoding="utf-8"))["icons"]
    images = [_rasterise(icons[name]) for name in vocabulary.pictograms]
    return Studio(vocabulary, torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p in images]))


def as_training_batch(images: list[Tensor]) -> Tensor:
    """(n, 3, SIZE, SIZE), -1..1, channels last, which is the faster layout on a CPU."""
    return torch.stack(images).to(memory_format=torch.channels_last) * 2 - 1


def _rasterise(icon: dict[str, Any]) -> NDArray[np.uint8]:
    """(SIZE, SIZE, 4), transparent where nothing is drawn; `icon` is an entry of the package's icons.json."""
    box = f"0 0 {icon.get('width', 32)} {icon.get('height', 32)}"
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f'<svg {namespaces} viewBox="{box}" width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
    return np.array(Image.open(io.BytesIO(png)).convert("RGBA"))


def _tint(rgba: Tensor, colour: Tensor) -> Tensor:
    """Repaint in one colour, keeping light and dark."""
    luma = (rgba[:3] * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
    alpha = rgba[3:]
    mean = (luma * alpha).sum() / alpha.sum().clamp(min=1)
    # Around the middle the colour comes out pure: light pictograms would turn pale, dark ones black.
    luma = (0.5 + (luma - mean) * 0.9).clamp(0.08, 0.95)
    pure = colour.view(3, 1, 1)
    painted = torch.where(luma < 0.5, pure * (2 * luma), pure + (1 - pure) * (2 * luma - 1))
    return torch.cat([painted, alpha])


def _place(rgba: Tensor, scale: float, dx: float, dy: float) -> Tensor:
    """Shrink and move, in half widths; the result has its colours multiplied by alpha."""
    theta = torch.tensor([[1 / scale, 0, -dx / scale], [0, 1 / scale, -dy / scale]])
    grid = F.affine_grid(theta[None], [1, 4, SIZE, SIZE], align_corners=False)
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    return F.grid_sample(premultiplied[None], grid, align_corners=False, padding_mode="zeros")[0]


def _over(canvas: Tensor, layer: Tensor) -> Tensor:
    return canvas * (1 - layer[3:]) + layer[:3]
