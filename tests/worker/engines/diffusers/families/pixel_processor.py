"""Stands for the processor of Qwen-Image-Edit, which needs torchvision."""

from typing import Any, Self

import numpy as np
import torch
from transformers import AutoTokenizer, BatchFeature, Qwen2VLProcessor

#: Every image becomes four patches, which the model merges into one token.
PATCHES, PATCH_VALUES = 4, 3 * 2 * 14 * 14


class PixelProcessor(Qwen2VLProcessor):  # type: ignore[misc] # transformers has no types
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: list[str], images: Any = None, **_: object) -> BatchFeature:
        given = images if isinstance(images, list) else [images]
        values = [self._values(image) for image in given if image is not None]
        tokens = self.tokenizer(text, padding=True, return_tensors="pt")
        grid = torch.tensor([[1, 2, 2]] * len(values))
        return BatchFeature({**tokens, "pixel_values": torch.cat(values), "image_grid_thw": grid})

    def _values(self, image: Any) -> torch.Tensor:
        mean = float(np.asarray(image, dtype=np.float32).mean()) / 255
        return torch.full((PATCHES, PATCH_VALUES), mean)

    def save_pretrained(self, folder: str, **_: object) -> None:
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str, **_: object) -> Self:
        return cls(AutoTokenizer.from_pretrained(folder))


# Indexes name the library of a part.
PixelProcessor.__module__ = Qwen2VLProcessor.__module__
PixelProcessor.__name__ = Qwen2VLProcessor.__name__
