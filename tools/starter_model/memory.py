"""A rolling store of encoded images: drawing and encoding costs more than a look back."""

import random

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from transformers import CLIPTokenizer

from .autoencoder import LATENT_CHANNELS
from .pictograms import SIZE, Studio, as_training_batch
from .scenes import compose_many
from .text import tokenise
from .tokenizer import LENGTH
from .training import bfloat16

LATENT_SIZE = SIZE // 8
CAPACITY = 12_000
REFILL = 32


class Memory:
    """Fresh images take the place of the oldest."""

    def __init__(
        self, studio: Studio, tokenizer: CLIPTokenizer, autoencoder: AutoencoderTiny, rng: random.Random
    ) -> None:
        self._studio, self._tokenizer, self._autoencoder, self._rng = studio, tokenizer, autoencoder, rng
        self._latents = torch.zeros(CAPACITY, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, dtype=torch.float16)
        self._captions = torch.zeros(CAPACITY, LENGTH, dtype=torch.long)
        self.seen = 0
        """Images drawn so far, those forgotten included."""

    def refill(self) -> None:
        scenes, captions = compose_many(self._studio.vocabulary, self._rng, REFILL)
        images = as_training_batch([self._studio.draw(scene, self._rng) for scene in scenes])
        with torch.no_grad(), bfloat16():
            latents = self._autoencoder.encode(images).latents
        places = (torch.arange(REFILL) + self.seen) % CAPACITY
        self._latents[places] = (latents.float() * self._autoencoder.config.scaling_factor).half()
        self._captions[places] = tokenise(self._tokenizer, captions)
        self.seen += REFILL

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Latents (count, 8, 16, 16) of standard deviation about 1, and caption tokens (count, LENGTH)."""
        pick = torch.randint(0, min(self.seen, CAPACITY), (count,))
        return self._latents[pick].float(), self._captions[pick]
