# Over 300 lines: one table, with a builder for each family.
"""One small model of each family, with random weights in the layers of the real one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch

from tests.worker.engines import tiny
from tests.worker.engines.diffusers.families import parts
from tests.worker.engines.diffusers.families.parts import WIDTH
from tests.worker.engines.diffusers.families.pixel_processor import PixelProcessor

Build = Callable[[], Any]
HEADS: dict[str, Any] = {"attention_head_dim": 8, "num_attention_heads": 2}
ROPE = (4, 2, 2)


def sd3() -> Any:
    return diffusers.StableDiffusion3Pipeline(
        scheduler=parts.flow_scheduler(shift=3.0),
        # Its pipeline for masks takes no other number of channels.
        vae=parts.autoencoder(latent_channels=16),
        **parts.clip(projects=True),
        **parts.numbered(parts.clip(projects=True), 2),
        **parts.numbered(parts.t5(2 * WIDTH), 3),
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            **HEADS,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * WIDTH,
            out_channels=16,
            pos_embed_max_size=32,
        ),
    )


def flux(pipeline: Any = diffusers.FluxPipeline, *, guidance: bool = True, channels: int = 16) -> Any:
    return pipeline(
        scheduler=parts.flow_scheduler(use_dynamic_shifting=guidance),
        vae=parts.autoencoder(),
        **parts.clip(),
        **parts.numbered(parts.t5(), 2),
        transformer=flux_transformer(guidance=guidance, channels=channels),
    )


def flux_transformer(*, guidance: bool, channels: int) -> Any:
    return diffusers.FluxTransformer2DModel(
        in_channels=channels,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        **HEADS,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=ROPE,
    )


def flux_fill() -> Any:
    # Latents, those of the masked image, and the mask: each of its values stands for as many pixels as a latent has.
    return flux(diffusers.FluxFillPipeline, channels=16 + 16 + 4 * parts.SCALE**2)


def flux2_dev() -> Any:
    return diffusers.Flux2Pipeline(
        scheduler=parts.flow_scheduler(),
        vae=parts.flux2_autoencoder(),
        **parts.mistral_with_images(layers=30),
        transformer=flux2_transformer(guidance=True),
    )


def klein(*, distilled: bool) -> Any:
    return diffusers.Flux2KleinPipeline(
        scheduler=parts.flow_scheduler(),
        vae=parts.flux2_autoencoder(),
        **parts.qwen3(layers=27),
        transformer=flux2_transformer(guidance=False),
        is_distilled=distilled,
    )


def flux2_transformer(*, guidance: bool) -> Any:
    return diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        **HEADS,
        joint_attention_dim=3 * WIDTH,
        axes_dims_rope=[2] * 4,
        guidance_embeds=guidance,
    )


def z_image() -> Any:
    return diffusers.ZImagePipeline(
        scheduler=parts.flow_scheduler(shift=3.0),
        vae=parts.autoencoder(),
        **parts.qwen3(layers=2),
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=16,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=list(ROPE),
            axes_lens=[1024, 64, 64],
        ),
    )


def qwen_image() -> Any:
    return diffusers.QwenImagePipeline(**_qwen_parts(parts.LEVELS))


def qwen_image_edit(pipeline: Any) -> Any:
    # Input images are scaled to a megapixel, whatever the size of the result.
    qwen = _qwen_parts(levels=4)
    return pipeline(**qwen, processor=PixelProcessor(qwen["tokenizer"]))


def _qwen_parts(levels: int) -> dict[str, Any]:
    return {
        "scheduler": parts.flow_scheduler(use_dynamic_shifting=True),
        "vae": parts.qwen_autoencoder(levels),
        **parts.qwen_with_images(),
        "transformer": diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            **HEADS,
            joint_attention_dim=WIDTH,
            axes_dims_rope=ROPE,
        ),
    }


def chroma() -> Any:
    return diffusers.ChromaPipeline(
        scheduler=parts.flow_scheduler(),
        vae=parts.autoencoder(),
        **parts.t5(),
        transformer=diffusers.ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            **HEADS,
            joint_attention_dim=WIDTH,
            axes_dims_rope=ROPE,
            approximator_hidden_dim=32,
            approximator_layers=1,
            approximator_num_channels=16,
        ),
    )


def sana() -> Any:
    return diffusers.SanaPipeline(
        scheduler=parts.flow_scheduler(shift=3.0),
        vae=parts.deep_autoencoder(),
        **parts.gemma(),
        transformer=sana_transformer(),
    )


def sana_sprint() -> Any:
    return diffusers.SanaSprintPipeline(
        scheduler=diffusers.SCMScheduler(),
        vae=parts.deep_autoencoder(),
        **parts.gemma(),
        transformer=sana_transformer(guidance_embeds=True, qk_norm="rms_norm_across_heads"),
    )


def sana_transformer(**config: Any) -> Any:
    return diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        **HEADS,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=32,
        **config,
    )


def lumina2() -> Any:
    return diffusers.Lumina2Pipeline(
        scheduler=parts.flow_scheduler(shift=6.0),
        vae=parts.autoencoder(levels=4),
        **parts.gemma(),
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            hidden_size=16,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=2,
            axes_dim_rope=ROPE,
            axes_lens=(1024, 64, 64),
            cap_feat_dim=WIDTH,
        ),
    )


def pixart_sigma() -> Any:
    return diffusers.PixArtSigmaPipeline(
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        vae=parts.autoencoder(shift_factor=None),
        **parts.t5(),
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=32,
            num_layers=1,
            patch_size=2,
            **HEADS,
            caption_channels=WIDTH,
            in_channels=4,
            cross_attention_dim=16,
            out_channels=8,
            use_additional_conditions=False,
        ),
    )


def krea2(*, distilled: bool) -> Any:
    return diffusers.Krea2Pipeline(
        scheduler=parts.flow_scheduler(use_dynamic_shifting=True),
        vae=parts.qwen_autoencoder(),
        **parts.qwen3_with_images(),
        transformer=diffusers.Krea2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=16,
            timestep_embed_dim=8,
            text_hidden_dim=WIDTH,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=1,
            text_intermediate_size=16,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=ROPE,
        ),
        text_encoder_select_layers=(1, 2),
        is_distilled=distilled,
    )


def ernie_image() -> Any:
    return diffusers.ErnieImagePipeline(
        scheduler=parts.flow_scheduler(shift=3.0),
        vae=parts.flux2_autoencoder(),
        **parts.mistral(),
        transformer=diffusers.ErnieImageTransformer2DModel(
            hidden_size=16,
            num_attention_heads=2,
            num_layers=1,
            ffn_hidden_size=16,
            in_channels=16,
            out_channels=16,
            text_in_dim=WIDTH,
            rope_axes_dim=ROPE,
        ),
    )


def kandinsky5() -> Any:
    return diffusers.Kandinsky5T2IPipeline(
        scheduler=parts.flow_scheduler(shift=3.0),
        vae=parts.autoencoder(levels=4, shift_factor=None),
        **parts.qwen_with_images(),
        **parts.numbered(parts.clip(), 2),
        transformer=diffusers.Kandinsky5Transformer3DModel(
            in_visual_dim=4,
            in_text_dim=WIDTH,
            in_text_dim2=WIDTH,
            time_dim=16,
            out_visual_dim=4,
            model_dim=16,
            ff_dim=16,
            num_text_blocks=1,
            num_visual_blocks=1,
            axes_dims=ROPE,
        ),
    )


#: Of Stable Diffusion, which other tests save as well.
SAVED: Mapping[str, Callable[[Path], Path]] = {
    "sd1": tiny.save_sd,
    "sd2": tiny.save_sd2,
    "sdxl": tiny.save_sdxl,
    "sdxl-turbo": tiny.save_turbo,
    "lcm": tiny.save_lcm,
}
MODELS: Mapping[str, Build] = {
    "sd3": sd3,
    "flux-dev": flux,
    "flux-schnell": lambda: flux(guidance=False),
    "flux-kontext": lambda: flux(diffusers.FluxKontextPipeline),
    "flux-fill": flux_fill,
    "flux2-dev": flux2_dev,
    "flux2-klein": lambda: klein(distilled=True),
    "flux2-klein-base": lambda: klein(distilled=False),
    "z-image": z_image,
    "z-image-turbo": z_image,
    "qwen-image": qwen_image,
    "qwen-image-edit": lambda: qwen_image_edit(diffusers.QwenImageEditPipeline),
    "qwen-image-edit-plus": lambda: qwen_image_edit(diffusers.QwenImageEditPlusPipeline),
    "chroma": chroma,
    "sana": sana,
    "sana-sprint": sana_sprint,
    "lumina2": lumina2,
    "pixart-sigma": pixart_sigma,
    "krea2": lambda: krea2(distilled=False),
    "krea2-turbo": lambda: krea2(distilled=True),
    "ernie-image": ernie_image,
    "ernie-image-turbo": ernie_image,
    "kandinsky5": kandinsky5,
}


def save_model(family: str, folder: Path) -> Path:
    """The folder is named like the family, as a copy of a published model would be."""
    if family in SAVED:
        return SAVED[family](folder / family)
    torch.manual_seed(0)
    MODELS[family]().save_pretrained(folder / family)
    return folder / family
