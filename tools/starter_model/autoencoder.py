"""Step 1: the autoencoder, which makes 16x16 latents of 8 channels from 128x128 images and back."""

import random

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from .folders import Folders
from .pictograms import Studio
from .training import Descent, bfloat16, cosine, edges, moments, report, warm_up

LATENT_CHANNELS = 8
WIDTH = 40
BATCH = 16
RATE = 2e-3
LATENT_NOISE = 0.03
"""Added before decoding, so that the decoder forgives what the image model gets slightly wrong."""


def train(studio: Studio, folders: Folders, minutes: float) -> None:
    torch.manual_seed(0)
    rng = random.Random(1)
    model = new_autoencoder()
    weights = list(model.parameters())
    descent = Descent(torch.optim.AdamW(weights, RATE, betas=(0.9, 0.98), weight_decay=1e-4), weights)
    for moment in moments(minutes):
        images = studio.random_images(rng, BATCH)
        error, latents = _reconstruct(model, images)
        descent.step(_loss(error, latents), RATE * warm_up(moment, 100) * (cosine(moment.share) + 0.01))
        report(moment, "decibels", _decibels(error))
    # The image model wants latents of standard deviation 1.
    model.register_to_config(scaling_factor=1 / latents.detach().std().item(), force_upcast=False)
    model.save_pretrained(folders.autoencoder)


def new_autoencoder() -> AutoencoderTiny:
    """0.7 million parameters; every side eight times smaller."""
    model = AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(1, 2, 2, 2),
        num_decoder_blocks=(2, 2, 2, 1),
        latent_channels=LATENT_CHANNELS,
    )
    return model.to(memory_format=torch.channels_last)


def _reconstruct(model: AutoencoderTiny, images: Tensor) -> tuple[Tensor, Tensor]:
    """What came back wrong, shaped as the images, and the latents."""
    with bfloat16():
        latents = model.encode(images).latents
        decoded = model.decode(latents + torch.randn_like(latents) * LATENT_NOISE).sample
    return decoded.float() - images, latents.float()


def _loss(error: Tensor, latents: Tensor) -> Tensor:
    """The last term keeps the latents from growing past a variance of 1."""
    excess = (latents.pow(2).mean() - 1).clamp(min=0)
    return error.abs().mean() + error.pow(2).mean() + 0.5 * edges(error) + 1e-3 * excess


def _decibels(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images in -1..1."""
    return 10 * torch.log10(4 / error.detach().pow(2).mean())
