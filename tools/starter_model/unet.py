"""Step 3: the image model, a small UNet on the autoencoder's latents that looks at the text."""

import copy
import random
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .autoencoder import LATENT_CHANNELS
from .folders import MODEL_NAME, Folders, existing
from .memory import LATENT_SIZE, Memory
from .pictograms import Studio
from .text import WIDTH, tokenise
from .training import Descent, Moment, bfloat16, cosine, moments, report, warm_up

BATCH = 40
RATE = 1.2e-3
TEXT_PACE = 0.1
"""The text encoder goes on learning, but slowly: it knows the captions already."""
FIRST_PICTURES = 1500
STEPS_PER_REFILL = 3
CAPTION_DROP = 0.1
"""Share of captions left out, so that classifier-free guidance has something to guide away from."""
LONGEST_AVERAGE = 0.9995


@dataclass(frozen=True)
class Parts:
    """What the pipeline is put together from."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    autoencoder: AutoencoderTiny
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler


def train(studio: Studio, folders: Folders, minutes: float) -> None:
    torch.manual_seed(1)
    parts = _open_parts(folders)
    memory = Memory(studio, parts.tokenizer, parts.autoencoder, random.Random(5))
    while memory.seen < FIRST_PICTURES:
        memory.refill()
    learners = torch.nn.ModuleDict({"unet": parts.unet, "text_encoder": parts.text_encoder})
    average = copy.deepcopy(learners).eval()
    descent, nothing = _descent(learners), tokenise(parts.tokenizer, [""])[0]
    for moment in moments(minutes):
        if moment.step % STEPS_PER_REFILL == 0:
            memory.refill()
        loss = _loss(parts, *memory.sample(BATCH), nothing)
        descent.step(loss, _rate(moment))
        _follow(average.parameters(), learners.parameters(), moment.step + 1)
        report(moment, "loss", loss)
    _save(parts, average, folders)


def new_unet() -> UNet2DConditionModel:
    """11 million parameters; two of its three levels look at the text."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )
    return unet.to(memory_format=torch.channels_last)


def new_scheduler() -> DDIMScheduler:
    """Ends in pure noise (zero terminal SNR): otherwise a plain coloured background cannot be learned."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=True,
    )


def _open_parts(folders: Folders) -> Parts:
    source = existing(folders.autoencoder, "autoencoder")
    return Parts(
        tokenizer=CLIPTokenizer.from_pretrained(existing(folders.tokenizer, "text")),
        text_encoder=CLIPTextModel.from_pretrained(existing(folders.text_encoder, "text")),
        autoencoder=AutoencoderTiny.from_pretrained(source).eval().to(memory_format=torch.channels_last),
        unet=new_unet(),
        scheduler=new_scheduler(),
    )


def _descent(learners: torch.nn.ModuleDict) -> Descent:
    groups = [
        {"params": learners["unet"].parameters(), "pace": 1.0},
        {"params": learners["text_encoder"].parameters(), "pace": TEXT_PACE},
    ]
    optimiser = torch.optim.AdamW(groups, RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    return Descent(optimiser, list(learners.parameters()))


def _loss(parts: Parts, latents: Tensor, ids: Tensor, nothing: Tensor) -> Tensor:
    """Squared error of the velocity at random times; `nothing` is the empty caption, (LENGTH,)."""
    count = len(latents)
    ids[torch.rand(count) < CAPTION_DROP] = nothing
    time = torch.randint(0, parts.scheduler.config.num_train_timesteps, (count,))
    signal = parts.scheduler.alphas_cumprod[time].view(-1, 1, 1, 1)
    noise = torch.randn_like(latents)
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    velocity = signal.sqrt() * noise - (1 - signal).sqrt() * latents
    with bfloat16():
        states = parts.text_encoder(ids).last_hidden_state
        predicted = parts.unet(noisy.to(memory_format=torch.channels_last), time, states).sample
    loss: Tensor = (predicted.float() - velocity).pow(2).mean()
    return loss


def _rate(moment: Moment) -> float:
    """Full for the first 30 % of the time, then falling."""
    return RATE * warm_up(moment, 200) * (cosine(max(0, (moment.share - 0.3) / 0.7)) + 0.005)


@torch.no_grad()
def _follow(average: Iterable[Tensor], weights: Iterable[Tensor], step: int) -> None:
    """Move the running average, which reaches back further the longer the training lasts."""
    keep = min(LONGEST_AVERAGE, 1 - 1 / (1 + step / 8))
    for mean, weight in zip(average, weights, strict=True):
        mean.lerp_(weight, 1 - keep)


def _save(parts: Parts, average: torch.nn.ModuleDict, folders: Folders) -> None:
    parts.autoencoder.register_to_config(_name_or_path=MODEL_NAME)
    pipeline = StableDiffusionPipeline(
        vae=parts.autoencoder.half(),
        text_encoder=average["text_encoder"].half(),
        tokenizer=parts.tokenizer,
        unet=average["unet"].half(),
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folders.pipeline)
