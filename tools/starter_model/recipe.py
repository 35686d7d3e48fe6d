"""The steps in their order, and what is printed about them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from . import autoencoder, decoder, text, unet, vocabulary
from .evaluate import evaluate
from .folders import Folders, existing
from .pictograms import Studio, open_studio


@dataclass(frozen=True)
class Recipe:
    trainers: ClassVar[Mapping[str, Callable[[Studio, Folders, float], None]]] = {
        "autoencoder": autoencoder.train,
        "text": text.train,
        "unet": unet.train,
        "decoder": decoder.train,
    }

    studio: Studio
    folders: Folders

    @classmethod
    def open(cls, pictograms: Path, out: Path) -> Self:
        return cls(open_studio(pictograms, vocabulary.load()), Folders(out))

    def train(self, step: str, minutes: float) -> None:
        print(f"{step}: {minutes:.3g} minutes", flush=True)
        self.trainers[step](self.studio, self.folders, minutes)

    def evaluate(self, pipeline: Path | None) -> None:
        """The pipeline of these folders, unless another is named."""
        folder = existing(pipeline or self.folders.pipeline, "unet")
        print(f"evaluate: {folder}", flush=True)
        score = evaluate(self.studio, folder)
        print(f"  nearest {score.nearest:.3f}, among the five nearest {score.among_five:.3f}")
        print(f"  {score.seconds_per_image:.2f} s an image")
        print(f"  {len(score.missed)} missed: {', '.join(score.missed[:10])}")
