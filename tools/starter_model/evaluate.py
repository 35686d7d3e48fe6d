"""Step 5: of all single-word prompts, how many images lie nearest to their own pictogram?"""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from diffusers import StableDiffusionPipeline
from torch import Tensor

from .pictograms import Studio
from .scenes import Scene, Thing

BATCH = 16
STEPS, GUIDANCE = 20, 4.0
FIRST_SEED = 100
"""The image of word i is drawn with seed 100 + i."""
POOL = 4
"""Images are compared at 32x32, where shape and colour count and the exact outline does not."""


@dataclass(frozen=True)
class Score:
    nearest: float
    """Share of words, 0..1."""
    among_five: float
    missed: tuple[str, ...]
    """The words whose image lies nearer to another pictogram."""
    seconds_per_image: float


def evaluate(studio: Studio, pipeline_folder: Path) -> Score:
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    words = studio.vocabulary.words
    start = time.monotonic()
    drawn = torch.cat([_draw(pipeline, words, first) for first in range(0, len(words), BATCH)])
    seconds = (time.monotonic() - start) / len(words)
    order = torch.cdist(_small(drawn), _small(_truth(studio))).argsort(1)
    return _score(order, words, seconds)


def _draw(pipeline: StableDiffusionPipeline, words: tuple[str, ...], first: int) -> Tensor:
    """(up to BATCH, 3, 128, 128), 0..1."""
    prompts = list(words[first : first + BATCH])
    seeds = [torch.Generator().manual_seed(FIRST_SEED + first + k) for k in range(len(prompts))]
    images: Tensor = pipeline(
        prompts, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=seeds, output_type="pt"
    ).images
    return images


def _truth(studio: Studio) -> Tensor:
    """(words, 3, 128, 128), 0..1."""
    rng = random.Random(0)
    return torch.stack([studio.draw(Scene((Thing(i),)), rng) for i in range(len(studio.vocabulary.words))])


def _small(images: Tensor) -> Tensor:
    """One flat row for each image."""
    return F.avg_pool2d(images, POOL).flatten(1)


def _score(order: Tensor, words: tuple[str, ...], seconds: float) -> Score:
    """`order` holds, for each word, the pictograms from the nearest to the farthest."""
    own = torch.arange(len(words))[:, None]
    nearest, among_five = (order[:, :1] == own).any(1), (order[:, :5] == own).any(1)
    missed = tuple(word for word, hit in zip(words, nearest.tolist(), strict=True) if not hit)
    return Score(nearest.float().mean().item(), among_five.float().mean().item(), missed, seconds)
