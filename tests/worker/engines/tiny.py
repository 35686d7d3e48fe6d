"""Pipelines of common architectures with random weights, small enough to create for each test."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

#: The default of 32 latent pixels, times the scale of an autoencoder with two levels.
NATIVE_SIDE = 64
#: The tile size, if images are decoded in tiles.
TILE_SIDE = 64
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def save_sd(folder: Path, scheduler: Any = None, **unet: Any) -> Path:
    """The architecture of Stable Diffusion 1.5."""
    torch.manual_seed(0)
    tokenizer = letter_tokenizer()
    sizes = {"block_out_channels": (4, 8), "layers_per_block": 1, "cross_attention_dim": 8, "norm_num_groups": 2}
    parts = {
        "unet": create_unet(**{**sizes, **unet}),
        "scheduler": scheduler or DDIMScheduler(**_BETAS, clip_sample=False, set_alpha_to_one=False),
        "vae": _autoencoder(),
        "text_encoder": CLIPTextModel(_text_config(tokenizer, hidden_size=8)),
        "tokenizer": tokenizer,
    }
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**parts, **none).save_pretrained(folder)
    return folder


def save_sd2(folder: Path, prediction_type: str = "v_prediction") -> Path:
    """The architecture of Stable Diffusion 2.1: larger, and predicts velocities."""
    scheduler = DDIMScheduler(**_BETAS, clip_sample=False, set_alpha_to_one=False, prediction_type=prediction_type)
    return save_sd(folder, scheduler, sample_size=48, attention_head_dim=(2, 4), use_linear_projection=True)


def save_lcm(folder: Path) -> Path:
    """A latent consistency model: guidance is an input, and its pipeline has another name."""
    save_sd(folder, LCMScheduler(**_BETAS), time_cond_proj_dim=16)
    return _renamed(folder, "LatentConsistencyModelPipeline")


def save_inpainting(folder: Path) -> Path:
    """An inpainting model: the mask and the masked image are inputs."""
    return _renamed(save_sd(folder, in_channels=9), "StableDiffusionInpaintPipeline")


def save_turbo(folder: Path) -> Path:
    """SDXL-Turbo: like Stable Diffusion XL with another scheduler."""
    return save_sdxl(folder, EulerAncestralDiscreteScheduler(**_BETAS, timestep_spacing="trailing"))


def save_sdxl(folder: Path, scheduler: Any = None) -> Path:
    """The architecture of Stable Diffusion XL: two text encoders, and sizes as an additional input."""
    torch.manual_seed(0)
    tokenizer = letter_tokenizer()
    config = _text_config(tokenizer, hidden_size=32)
    parts = {
        "unet": create_unet(
            block_out_channels=(2, 4),
            layers_per_block=2,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=6 * 8 + 32,
            cross_attention_dim=32 + 32,
            norm_num_groups=1,
        ),
        "scheduler": scheduler or EulerDiscreteScheduler(**_BETAS, steps_offset=1, timestep_spacing="leading"),
        "vae": _autoencoder(),
        "text_encoder": CLIPTextModel(config),
        "text_encoder_2": CLIPTextModelWithProjection(config),
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
    }
    StableDiffusionXLPipeline(**parts).save_pretrained(folder)
    return folder


def save_checker(folder: Path, *, strict: bool) -> Path:
    """A safety checker that flags everything, or nothing."""
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 100, "bos_token_id": 98, "eos_token_id": 99}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=16, text_config=text, vision_config=vision))
    # It compares cosines: none is above 1, and all are above -1.5.
    checker.concept_embeds_weights.data.fill_(-1.5 if strict else 1.5)
    checker.special_care_embeds_weights.data.fill_(1.5)
    checker.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_lora(folder: Path, name: str, model: Path, rank: int = 2) -> Path:
    """A LoRA for the attention of the model's UNet, strong enough to change images visibly."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    weights = {}
    for path, module in unet.named_modules():
        if path.endswith(("to_q", "to_v")):
            weights[f"unet.{path}.lora_A.weight"] = torch.randn(rank, module.in_features)
            weights[f"unet.{path}.lora_B.weight"] = torch.randn(module.out_features, rank)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / f"{name}.safetensors")
    return folder


def as_kohya(lora: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under the names of kohya's tools, which most files use."""
    weights = {}
    for key, tensor in lora.items():
        layer, _, way = key.removeprefix("unet.").partition(".lora_")
        name = f"lora_unet_{layer.replace('.', '_')}"
        weights[f"{name}.lora_{'down' if way.startswith('A') else 'up'}.weight"] = tensor
        weights[f"{name}.alpha"] = torch.tensor(float(min(tensor.shape)))
    return weights


def _renamed(folder: Path, pipeline: str) -> Path:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": pipeline}))
    return folder


def create_unet(**config: Any) -> Any:
    blocks = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DConditionModel(**{"sample_size": 32, "in_channels": 4, "out_channels": 4, **blocks, **config})


def _autoencoder() -> Any:
    return AutoencoderKL(
        block_out_channels=[4, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=TILE_SIDE,
    )


def letter_tokenizer() -> Any:
    letters = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    words = ["<|unknown|>", *letters, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    names = {"bos_token": words[-2], "eos_token": words[-1], "pad_token": words[-1], "unk_token": words[0]}
    return CLIPTokenizer(vocab=vocabulary, merges=[], **names, model_max_length=77)


def _text_config(tokenizer: Any, hidden_size: int) -> Any:
    return CLIPTextConfig(
        hidden_size=hidden_size,
        projection_dim=hidden_size,
        intermediate_size=2 * hidden_size,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
