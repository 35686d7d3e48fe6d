"""Step 4: a sharper decoder. The encoder is frozen, because the image model has learned its latents."""

import random

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from .folders import MODEL_NAME, Folders, existing
from .pictograms import Studio
from .training import Descent, bfloat16, cosine, edges, moments, report, warm_up

BATCH = 16
RATE = 8e-4
LATENT_NOISE = 0.12
"""The most noise an image's latents get, in their standard deviations; the image model errs about so."""


def train(studio: Studio, folders: Folders, minutes: float) -> None:
    torch.manual_seed(3)
    rng = random.Random(9)
    source, target = existing(folders.autoencoder, "autoencoder"), existing(folders.pipeline, "unet")
    model = AutoencoderTiny.from_pretrained(source).to(memory_format=torch.channels_last)
    model.encoder.requires_grad_(False)
    weights = list(model.decoder.parameters())
    descent = Descent(torch.optim.AdamW(weights, RATE, betas=(0.9, 0.98), weight_decay=1e-4), weights)
    for moment in moments(minutes):
        images = studio.random_images(rng, BATCH)
        loss = _loss(_reconstruct(model, images))
        descent.step(loss, RATE * warm_up(moment, 50) * (cosine(moment.share) + 0.01))
        report(moment, "loss", loss)
    model.register_to_config(_name_or_path=MODEL_NAME)
    model.half().save_pretrained(target / "vae")


def _reconstruct(model: AutoencoderTiny, images: Tensor) -> Tensor:
    """What came back wrong, shaped as the images."""
    with torch.no_grad(), bfloat16():
        latents = model.encode(images).latents.float()
    noise = torch.randn_like(latents) * LATENT_NOISE * latents.std()
    noisy = latents + noise * torch.rand(len(latents), 1, 1, 1)
    with bfloat16():
        error: Tensor = model.decode(noisy).sample.float() - images
    return error


def _loss(error: Tensor) -> Tensor:
    return error.abs().mean() + 0.5 * error.pow(2).mean() + 0.8 * edges(error)
