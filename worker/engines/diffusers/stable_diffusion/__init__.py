"""Stable Diffusion on diffusers: 1.5, 2.x, XL, their distilled kinds, and the bundled starter model."""

from worker.engines.diffusers.stable_diffusion.engine import StableDiffusion, StableDiffusionOptions

__all__ = ["StableDiffusion", "StableDiffusionOptions"]
