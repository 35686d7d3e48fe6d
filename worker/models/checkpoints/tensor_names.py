"""Sorts the tensors of a single file by part, whatever naming the tool that wrote it used."""

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum


class Role(StrEnum):
    """What a part does; the pipeline decides which name it has there."""

    DENOISER = "denoiser"
    VAE = "vae"
    CLIP_L = "clip-l"
    CLIP_G = "clip-g"
    CLIP_H = "clip-h"
    T5 = "t5"
    QWEN3 = "qwen3"
    OTHER = "other"


_EMA = "model_ema."
_FLATTENED = f"{_EMA}diffusion_model"
#: Longer prefixes first. The values are what the rest of the name begins with.
_PREFIXES: tuple[tuple[str, Role, str], ...] = (
    ("model.diffusion_model.", Role.DENOISER, ""),
    ("diffusion_model.", Role.DENOISER, ""),
    ("first_stage_model.", Role.VAE, ""),
    ("vae.", Role.VAE, ""),
    ("cond_stage_model.transformer.text_model.", Role.CLIP_L, "text_model."),
    # Early community checkpoints left out the level `text_model`.
    ("cond_stage_model.transformer.", Role.CLIP_L, "text_model."),
    ("cond_stage_model.model.", Role.CLIP_H, ""),
    ("conditioner.embedders.0.transformer.", Role.CLIP_L, ""),
    ("conditioner.embedders.1.model.", Role.CLIP_G, ""),
    ("text_encoders.clip_l.transformer.", Role.CLIP_L, ""),
    ("text_encoders.clip_g.transformer.", Role.CLIP_G, ""),
    ("text_encoders.t5xxl.transformer.", Role.T5, ""),
    ("text_encoders.qwen3_4b.transformer.model.", Role.QWEN3, ""),
    ("text_encoders.qwen3_4b.model.", Role.QWEN3, ""),
)
#: How names begin in files that hold nothing but a transformer, in the layouts of its authors and of diffusers.
_BARE = re.compile(
    r"(?:double_blocks|single_blocks|joint_blocks|img_in|txt_in|time_in|vector_in|guidance_in|final_layer|x_embedder"
    r"|t_embedder|y_embedder|context_embedder|pos_embed|distilled_guidance_layer|layers|noise_refiner|context_refiner"
    r"|cap_embedder|cap_pad_token|x_pad_token|transformer_blocks|single_transformer_blocks|time_text_embed|norm_out"
    r"|proj_out|all_x_embedder|all_final_layer|input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\."
)
_BARE_NAMES = frozenset({"pos_embed", "cap_pad_token", "x_pad_token"})
#: Scales of eight-bit weights, and markers, which are not weights themselves.
SCALES = (".scale_weight", ".weight_scale")
_IGNORED = re.compile(r"(?:.*\.)?(?:scale_input|input_scale|comfy_quant|position_ids|logit_scale|num_batches_tracked)$")


def sort_tensors(names: Iterable[str]) -> dict[Role, dict[str, str]]:
    """By role: the original name of each tensor by its name within the part.

    Weights of an exponential moving average count only in files that have no others.
    """
    listed = [name for name in names if not _IGNORED.match(name)]
    roles: dict[Role, dict[str, str]] = {}
    for name in listed:
        role, inner = _locate(name)
        roles.setdefault(role, {})[inner] = name
    if Role.DENOISER not in roles and (averaged := dict(_averaged(listed))):
        roles[Role.DENOISER] = averaged
    return roles


def _locate(name: str) -> tuple[Role, str]:
    for prefix, role, start in _PREFIXES:
        if name.startswith(prefix):
            return role, start + name.removeprefix(prefix)
    if _BARE.match(name) or name in _BARE_NAMES:
        return Role.DENOISER, name
    return Role.OTHER, name


#: Names within a U-Net, as they appear between dots. Averages are stored under names without the dots.
_WORD = (
    "input_blocks|output_blocks|middle_block|transformer_blocks|in_layers|out_layers|emb_layers|skip_connection"
    "|time_embed|label_emb|proj_in|proj_out|to_out|to_q|to_k|to_v|attn1|attn2|norm1|norm2|norm3|norm|proj|ff|net|op"
    "|conv|out|weight|bias"
)
_TOKEN = re.compile(rf"({_WORD})|(\d+)")


def _averaged(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        if name.startswith(_FLATTENED) and (inner := _dotted(name.removeprefix(_FLATTENED).lstrip("."))):
            yield inner, name


def _dotted(flat: str) -> str | None:
    """`input_blocks110in_layers0weight` as `input_blocks.11.0.in_layers.0.weight`; None for other names."""
    if "." in flat:
        return flat
    parts: list[str] = []
    end = 0
    for match in _TOKEN.finditer(flat):
        if match.start() != end:
            return None
        end = match.end()
        word, digits = match.groups()
        # Two numbers follow each other only where a block has layers; the second has one digit.
        if digits and len(digits) > 1 and parts[-1:] in (["input_blocks"], ["output_blocks"], ["label_emb"]):
            parts += [digits[:-1], digits[-1]]
        else:
            parts.append(word or digits)
    return ".".join(parts) if end == len(flat) else None
