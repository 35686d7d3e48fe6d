"""Says what a .safetensors file is that holds no model: an adapter, one part of a model, and so on."""

import re

from worker.models.checkpoints.header import Header


class NotACheckpoint(Exception):
    """The message is one sentence that says what the file is, or what it lacks."""


#: Patterns of tensor names, most specific first, each with a sentence.
_KINDS = (
    (
        r"(?:.*\.)?(?:lora_(?:up|down|A|B|a|b)\b.*|hada_w1_a|lokr_w1.*|oft_blocks|dora_scale)",
        "This is a LoRA: put it into SD_LORA_DIR.",
    ),
    (r"(?:control_model|controlnet_\w+|input_hint_block)\..*", "This is a ControlNet, which is not supported."),
    (r"(?:ip_adapter|image_proj)\..*", "This is an IP-Adapter, which is not supported."),
    (r"(?:emb_params|string_to_param.*)", "This is a textual inversion embedding: put it into SD_EMBEDDING_DIR."),
    (
        r"conditioner\.embedders\.0\.model\..*",
        "This is the refiner of Stable Diffusion XL, which draws no image itself.",
    ),
)
_DENOISERS = ("model.diffusion_model.", "diffusion_model.", "model_ema.")
#: Files of one part, by how their tensors begin; only where nothing else is in the file.
_PARTS = (
    (r"(?:first_stage_model\.|vae\.)?(?:encoder|decoder|quant_conv|post_quant_conv)\..*", "an autoencoder"),
    (
        r"(?:text_model|text_projection|logit_scale|encoder\.block|shared|embed_tokens|model\.layers|lm_head).*",
        "a text encoder",
    ),
    (
        r"(?:conv_first|body|model\.0|model\.1|upconv1|params_ema)\..*",
        "an upscaler (put it into SD_MODEL_DIR/upscalers)",
    ),
    (r"(?:vision_model|visual)\..*", "an image encoder"),
)


def reason_of_rejection(header: Header) -> str | None:
    """None if the file may hold a model."""
    names = list(header.tensors)
    if not names:
        return "The file holds no tensors."
    for pattern, sentence in _KINDS:
        kind = re.compile(pattern)
        if any(kind.fullmatch(name) for name in names):
            return sentence
    if {"clip_l", "clip_g"} >= set(names):
        return "This is a textual inversion embedding: put it into SD_EMBEDDING_DIR."
    if any(name.startswith(_DENOISERS) for name in names):
        return None
    for pattern, part in _PARTS:
        kind = re.compile(pattern)
        if all(kind.fullmatch(name) for name in names):
            return f"The file holds only {part}, not a whole model."
    return None
