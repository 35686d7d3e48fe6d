"""FLUX.2 Klein with random weights: the real architecture in small, or in full size for speed and memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

#: The pipeline reads the text encoder's layers 9, 18 and 27.
LAYERS, LAYERS_READ = 27, 3
END = "<|endoftext|>"
#: Stands for a part of an image.
IMAGE = "<|image_pad|>"
IMAGE_MARKS = (IMAGE, "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
CHAT = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"


def save_klein(folder: Path, *, distilled: bool = True) -> Path:
    """Like the real one, it halves the sides three times and then uses patches of 2x2."""
    pipe = _pipeline(
        text={"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8},
        transformer={"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2},
        vae={"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 1},
        distilled=distilled,
    )
    pipe.save_pretrained(folder)
    return folder


@contextmanager
def in_bfloat16() -> Iterator[None]:
    """Tensors created in the block have this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def full_size() -> Any:
    """As large as FLUX.2 Klein 4B, with torch's current default device and dtype."""
    return _pipeline(
        text={
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "num_hidden_layers": 36,
            "vocab_size": 151_936,
        },
        transformer={"num_layers": 5, "num_single_layers": 20, "attention_head_dim": 128, "num_attention_heads": 24},
        vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 32},
        distilled=True,
    )


def _pipeline(text: dict[str, Any], transformer: dict[str, Any], vae: dict[str, Any], distilled: bool) -> Any:
    torch.manual_seed(0)
    tokenizer = create_tokenizer()
    usual = {"num_hidden_layers": LAYERS, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    config = Qwen3Config(**usual | text, max_position_embeddings=512, tie_word_embeddings=True)
    levels = len(vae["block_out_channels"])
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            sample_size=1024,
            **vae,
        ),
        text_encoder=Qwen3ForCausalLM(config),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            patch_size=1,
            in_channels=4 * vae["latent_channels"],
            joint_attention_dim=LAYERS_READ * config.hidden_size,
            axes_dims_rope=[transformer["attention_head_dim"] // 4] * 4,
            guidance_embeds=False,
            **transformer,
        ),
        is_distilled=distilled,
    )


def create_tokenizer(*, chat: bool = True, images: bool = False) -> Any:
    """One token per byte, so that it encodes everything."""
    words = [*sorted(ByteLevel.alphabet()), END, "<|im_start|>", "<|im_end|>", *(IMAGE_MARKS if images else ())]
    return Qwen2Tokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[],
        unk_token=END,
        eos_token=END,
        pad_token=END,
        chat_template=CHAT if chat else None,
        additional_special_tokens=list(IMAGE_MARKS) if images else [],
    )
