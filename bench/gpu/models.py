"""Pipelines and denoisers with random weights: speed does not depend on them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bench.gpu.machine import Machine
from tests.worker.engines import tiny
from tests.worker.engines.diffusers.flux import klein
from worker.engines.diffusers.acceleration.sample_calls import SampleCall


@dataclass(frozen=True)
class RandomDenoiser:
    name: str
    steps: int
    """That an image usually takes."""
    create: Callable[[bool], tuple[torch.nn.Module, SampleCall]]
    """With torch's current default device and dtype; `True` for a tiny one."""
    gigabytes: float
    dtype: torch.dtype = torch.bfloat16


@contextmanager
def defaults(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Tensors created in the block have this device and dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def save_sdxl(folder: Path, machine: Machine) -> Path:
    if machine.is_tiny:
        return tiny.save_sdxl(folder)
    torch.manual_seed(0)
    tokenizer = tiny.letter_tokenizer()
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = diffusers.EulerDiscreteScheduler(**betas, steps_offset=1, timestep_spacing="leading")
    with defaults(machine.device, torch.float16):
        pipe = diffusers.StableDiffusionXLPipeline(
            unet=_unet(tiny_one=False),
            scheduler=scheduler,
            vae=diffusers.AutoencoderKL(
                block_out_channels=[128, 256, 512, 512],
                down_block_types=["DownEncoderBlock2D"] * 4,
                up_block_types=["UpDecoderBlock2D"] * 4,
                latent_channels=4,
                layers_per_block=2,
                sample_size=1024,
                scaling_factor=0.13025,
                force_upcast=True,
            ),
            text_encoder=CLIPTextModel(_clip(tokenizer, 768, 12, 12, "quick_gelu")),
            text_encoder_2=CLIPTextModelWithProjection(_clip(tokenizer, 1280, 20, 32, "gelu")),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
        )
    return _saved(pipe, folder)


def save_klein(folder: Path, machine: Machine) -> Path:
    if machine.is_tiny:
        return klein.save_klein(folder)
    with defaults(machine.device, torch.bfloat16):
        return _saved(klein.full_size(), folder)


def _saved(pipe: Any, folder: Path) -> Path:
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def _clip(tokenizer: Any, width: int, heads: int, layers: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        projection_dim=width,
        intermediate_size=4 * width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        hidden_act=activation,
        vocab_size=49_408,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _unet(*, tiny_one: bool) -> Any:
    usual = {
        "sample_size": 32 if tiny_one else 128,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
    }
    if tiny_one:
        return diffusers.UNet2DConditionModel(
            block_out_channels=(2, 4),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=6 * 8 + 32,
            cross_attention_dim=64,
            norm_num_groups=1,
            **usual,
        )
    return diffusers.UNet2DConditionModel(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(5, 10, 20),
        addition_time_embed_dim=256,
        transformer_layers_per_block=(1, 2, 10),
        projection_class_embeddings_input_dim=6 * 256 + 1280,
        cross_attention_dim=2048,
        **usual,
    )


def _sdxl(tiny_one: bool) -> tuple[torch.nn.Module, SampleCall]:
    """Two predictions, for guidance."""
    side, text, pooled = (32, 64, 32) if tiny_one else (128, 2048, 1280)
    added = {"text_embeds": torch.randn(2, pooled), "time_ids": torch.randn(2, 6)}
    kwargs = {
        "encoder_hidden_states": torch.randn(2, 77, text),
        "added_cond_kwargs": added,
        "return_dict": False,
    }
    return _unet(tiny_one=tiny_one), SampleCall((torch.randn(2, 4, side, side), torch.tensor(500.0)), kwargs)


def _klein(tiny_one: bool) -> tuple[torch.nn.Module, SampleCall]:
    layers, singles, heads, width, text, channels, tokens = (
        (1, 1, 2, 16, 48, 16, 64) if tiny_one else (5, 20, 24, 128, 7680, 128, 4096)
    )
    model = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=channels,
        num_layers=layers,
        num_single_layers=singles,
        attention_head_dim=width,
        num_attention_heads=heads,
        joint_attention_dim=text,
        axes_dims_rope=[width // 4] * 4,
        guidance_embeds=False,
    )
    kwargs = {
        "hidden_states": torch.randn(1, tokens, channels),
        "encoder_hidden_states": torch.randn(1, 512, text),
        "timestep": torch.full((1,), 0.5),
        "img_ids": torch.zeros(1, tokens, 4),
        "txt_ids": torch.zeros(1, 512, 4),
        "return_dict": False,
    }
    return model, SampleCall((), kwargs)


def _z_image(tiny_one: bool) -> tuple[torch.nn.Module, SampleCall]:
    sizes = {"dim": 48, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [8, 8, 8], "cap_feat_dim": 16}
    model = diffusers.ZImageTransformer2DModel(**(sizes if tiny_one else {}))
    side, text = (16, 16) if tiny_one else (128, 2560)
    images, texts = [torch.randn(16, 1, side, side)], [torch.randn(128, text)]
    return model, SampleCall((images, torch.full((1,), 0.5), texts), {"return_dict": False})


def _flux(tiny_one: bool) -> tuple[torch.nn.Module, SampleCall]:
    sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    small = {**sizes, "joint_attention_dim": 32, "pooled_projection_dim": 16, "axes_dims_rope": (4, 4, 8)}
    model = diffusers.FluxTransformer2DModel(guidance_embeds=True, **(small if tiny_one else {}))
    tokens, text, pooled = (64, 32, 16) if tiny_one else (4096, 4096, 768)
    kwargs = {
        "hidden_states": torch.randn(1, tokens, 64),
        "encoder_hidden_states": torch.randn(1, 512, text),
        "pooled_projections": torch.randn(1, pooled),
        "timestep": torch.full((1,), 0.5),
        "img_ids": torch.zeros(tokens, 3),
        "txt_ids": torch.zeros(512, 3),
        "guidance": torch.full((1,), 3.5),
        "return_dict": False,
    }
    return model, SampleCall((), kwargs)


DENOISERS = (
    RandomDenoiser("SDXL", 10, _sdxl, 6, torch.float16),
    RandomDenoiser("Klein 4B", 4, _klein, 9),
    RandomDenoiser("Z-Image", 8, _z_image, 14),
    RandomDenoiser("FLUX.1", 28, _flux, 27),
)
