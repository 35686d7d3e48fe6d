"""Stable Diffusion on diffusers: 1.5, 2.x, XL, their distilled kinds, and the bundled starter model."""

from worker.engines.diffusers.stable_diffusion.engine import Options, StableDiffusion

__all__ = ["Options", "StableDiffusion"]
