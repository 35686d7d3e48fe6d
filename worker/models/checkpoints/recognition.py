"""Recognises what a single file holds, from the names and shapes of its tensors."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from worker.models.checkpoints import configurations
from worker.models.checkpoints.header import Header, ModelSpec, Tensor
from worker.models.checkpoints.rejections import NotACheckpoint, reason_of_rejection
from worker.models.checkpoints.shapes import derive
from worker.models.checkpoints.tensor_names import Role
from worker.models.checkpoints.variants import Variant, variant_of


class UnknownFamily(NotACheckpoint):
    """A file of another family may still work on a base model."""


@dataclass(frozen=True)
class Recognised:
    family: str
    """As in configurations.json."""
    variant: Variant
    index: Mapping[str, Any]
    """Of the whole pipeline, also of parts that the file lacks."""
    configs: Mapping[str, Mapping[str, Any]]
    """Of the parts that the file holds, and of those without weights, by part."""
    roles: Mapping[str, Role]
    """Of the parts with weights that the file holds, by part."""
    missing: tuple[str, ...]
    """Parts with weights that the file lacks."""
    spec: ModelSpec


def recognise(header: Header, name: str) -> Recognised:
    """`name` is that of the file, without its extension: some variants show only there. Raises NotACheckpoint."""
    if reason := reason_of_rejection(header):
        raise NotACheckpoint(reason)
    denoiser = header.parts.get(Role.DENOISER, {})
    family = family_of(denoiser, header.parts)
    if family is None:
        raise UnknownFamily(
            "No supported family of models has such tensors: name its base model in an imagegen.json, or use a folder "
            "in diffusers' format."
        )
    variant = variant_of(family, denoiser, header, f"{name} {header.spec.title or ''}")
    return _described(header, family, variant)


def family_of(denoiser: Mapping[str, Tensor], roles: Collection[Role]) -> str | None:
    """None for families whose single files need a base model."""
    if "input_blocks.0.0.weight" in denoiser:
        if "label_emb.0.0.weight" in denoiser:
            return "sdxl"
        widths = {tensor.shape[-1] for name, tensor in denoiser.items() if name.endswith("attn2.to_k.weight")}
        return "sd2" if Role.CLIP_H in roles or widths == {1024} else "sd15"
    if "joint_blocks.0.context_block.adaLN_modulation.1.bias" in denoiser:
        return "sd3"
    if "distilled_guidance_layer.in_proj.bias" in denoiser:
        return "chroma"
    if {"double_blocks.0.img_attn.qkv.weight", "vector_in.in_layer.weight", "img_in.weight"} <= denoiser.keys():
        return "flux1"
    if {"layers.0.adaLN_modulation.0.weight", "layers.0.attention.qkv.weight"} <= denoiser.keys():
        return "z-image"
    return None


#: The role of each bundled configuration with weights.
_ROLES = {
    "clip-l": Role.CLIP_L,
    "clip-l-projection": Role.CLIP_L,
    "open-clip-h": Role.CLIP_H,
    "open-clip-g": Role.CLIP_G,
    "t5-xxl": Role.T5,
    "qwen3-4b": Role.QWEN3,
}
#: A pipeline works without them, with prompts understood less well.
_OPTIONAL = {("sd3", "text_encoder_3"): "tokenizer_3"}


def _described(header: Header, family: str, variant: Variant) -> Recognised:
    index: dict[str, Any] = {**configurations.index_of(family), "_class_name": variant.pipeline_class}
    configs: dict[str, Mapping[str, Any]] = {}
    found: dict[str, Role] = {}
    missing = []
    for part, bundled in configurations.names_of_parts(family).items():
        if configurations.is_tokenizer(bundled):
            continue
        if part == "scheduler":
            configs[part] = {**configurations.configuration(variant.scheduler or bundled), **variant.scheduler_changes}
            index[part] = ["diffusers", configs[part]["_class_name"]]
            continue
        role = _role_of(bundled)
        if role in header.parts:
            found[part] = role
            configs[part] = derive(role, index[part][1], header.parts[role], configurations.configuration(bundled))
        elif (family, part) in _OPTIONAL:
            index[part] = index[_OPTIONAL[family, part]] = [None, None]
        else:
            missing.append(part)
    return Recognised(family, variant, index, configs, found, tuple(missing), header.spec)


def _role_of(bundled: str) -> Role:
    return _ROLES.get(bundled) or (Role.VAE if bundled.startswith("vae-") else Role.DENOISER)
