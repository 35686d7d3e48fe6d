"""Small parts with random weights, of the kinds that families share."""

from typing import Any

from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    MistralModel,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLModel,
    T5Config,
    T5EncoderModel,
)

from tests.worker.engines.diffusers.flux.klein import IMAGE, create_tokenizer
from tests.worker.engines.tiny import letter_tokenizer

#: Of all text encoders.
WIDTH = 16
#: Autoencoders halve the sides once, so that even small images have latents to look at; real ones do it three times.
LEVELS, SCALE = 2, 2


def flow_scheduler(**config: Any) -> Any:
    return FlowMatchEulerDiscreteScheduler(**config)


def clip(*, projects: bool = False) -> dict[str, Any]:
    tokenizer = letter_tokenizer()
    config = CLIPTextConfig(
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=WIDTH,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = CLIPTextModelWithProjection if projects else CLIPTextModel
    return {"tokenizer": tokenizer, "text_encoder": kind(config)}


def t5(width: int = WIDTH) -> dict[str, Any]:
    tokenizer = create_tokenizer()
    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2)
    return {"tokenizer": tokenizer, "text_encoder": T5EncoderModel(config)}


def gemma() -> dict[str, Any]:
    tokenizer = create_tokenizer(chat=False)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
    )
    return {"tokenizer": tokenizer, "text_encoder": Gemma2Model(config)}


def qwen3(layers: int) -> dict[str, Any]:
    tokenizer = create_tokenizer()
    config = Qwen3Config(vocab_size=len(tokenizer), **_transformer(layers))
    return {"tokenizer": tokenizer, "text_encoder": Qwen3ForCausalLM(config)}


def mistral() -> dict[str, Any]:
    tokenizer = create_tokenizer()
    return {
        "tokenizer": tokenizer,
        "text_encoder": MistralModel(MistralConfig(vocab_size=len(tokenizer), **_transformer(2))),
        "pe": None,
        "pe_tokenizer": None,
    }


def mistral_with_images(layers: int) -> dict[str, Any]:
    """The tokenizer stands for the real one's processor, which needs torchvision."""
    tokenizer = create_tokenizer(images=True)
    vision = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Mistral3Config(
        text_config=MistralConfig(vocab_size=len(tokenizer), **_transformer(layers)),
        vision_config=PixtralVisionConfig(**vision, image_size=28),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    return {"tokenizer": tokenizer, "text_encoder": Mistral3ForConditionalGeneration(config)}


def qwen_with_images() -> dict[str, Any]:
    tokenizer = create_tokenizer(images=True)
    vision = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": 2, "out_hidden_size": WIDTH}
    config = Qwen2_5_VLConfig(
        text_config={**_transformer(2), "vocab_size": len(tokenizer), "rope_scaling": _MROPE},
        vision_config={**vision, "fullatt_block_indexes": [0]},
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
    )
    return {"tokenizer": tokenizer, "text_encoder": Qwen2_5_VLForConditionalGeneration(config)}


def qwen3_with_images() -> dict[str, Any]:
    tokenizer = create_tokenizer(images=True)
    text = {**_transformer(2), "vocab_size": len(tokenizer), "rope_scaling": {**_MROPE, "mrope_interleaved": True}}
    vision = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": 2, "out_hidden_size": WIDTH}
    config = Qwen3VLConfig(text_config=text, vision_config={**vision, "deepstack_visual_indexes": [0]})
    return {"tokenizer": tokenizer, "text_encoder": Qwen3VLModel(config)}


_MROPE: dict[str, Any] = {"rope_type": "default", "mrope_section": [1, 1, 2]}


def _transformer(layers: int) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }


def numbered(parts: dict[str, Any], number: int) -> dict[str, Any]:
    """The same under the names of the second or third encoder."""
    return {f"{name}_{number}": part for name, part in parts.items()}


def autoencoder(levels: int = LEVELS, **config: Any) -> Any:
    return AutoencoderKL(
        block_out_channels=[4] * levels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=64,
        **{"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1, **config},
    )


def flux2_autoencoder() -> Any:
    return AutoencoderKLFlux2(
        block_out_channels=(4,) * LEVELS,
        down_block_types=("DownEncoderBlock2D",) * LEVELS,
        up_block_types=("UpDecoderBlock2D",) * LEVELS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=64,
    )


def qwen_autoencoder(levels: int = LEVELS) -> Any:
    return AutoencoderKLQwenImage(
        base_dim=6,
        z_dim=4,
        dim_mult=[1] * levels,
        num_res_blocks=1,
        temperal_downsample=[False] * (levels - 1),
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def deep_autoencoder() -> Any:
    return AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
