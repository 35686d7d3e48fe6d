"""Decodes latents to images and previews."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import diffusers
import torch

from shared.models.capabilities import Size
from worker.engines.diffusers.decoding.pixels import (
    DecodedPixels,
    as_spatial,
    decoded_pixels,
    false_colour_preview,
    to_preview,
)
from worker.engines.diffusers.decoding.soundness import in_float32
from worker.engines.diffusers.memory.out_of_memory import Fallback
from worker.images.values import Pixels
from worker.models.families import LatentLayout

#: By default, tiles are as large as the autoencoder's training images, which does not help with images of that size.
TILE = 512


class _Reached(Exception):
    """The pipeline has come to its decoder."""

    def __init__(self, latents: torch.Tensor) -> None:
        super().__init__()
        self.latents = latents


class Autoencoder:
    """Decodes one image at a time, so that several need no more memory than one."""

    def __init__(
        self, pipe: Any, layout: LatentLayout, side_multiple: int, *, faithful_previews: bool, use_bfloat16: bool
    ) -> None:
        """`faithful_previews`: whether callers may see half-finished images undistorted.

        `use_bfloat16`: decode in bfloat16 what would be decoded in float32. It has the same range, and takes three
        quarters of the time. Images that do not come out sound are decoded again in float32.
        """
        self._vae = vae = pipe.vae
        self._layout = layout
        self._side_multiple = side_multiple
        self._has_faithful_previews = faithful_previews and isinstance(vae, diffusers.AutoencoderTiny)
        # Stable Diffusion XL's autoencoder overflows in half precision; its configuration says so, and its pipeline
        # acts on it.
        acts = hasattr(pipe, "upcast_vae")
        overflows = acts and bool(getattr(vae.config, "force_upcast", False)) and vae.dtype is torch.float16
        self._in_bfloat16 = overflows and use_bfloat16
        self.in_float32 = overflows and not use_bfloat16

    def latents_of(self, run: Callable[[], object]) -> torch.Tensor:
        """What a pipeline gives to its decoder: unpacked and unscaled, whatever the family.

        The pipeline ends there. Finished latents survive a decoder that runs out of memory or overflows.
        """
        try:
            with self._intercepted():
                run()
        except _Reached as reached:
            return reached.latents
        raise TypeError("the pipeline has decoded its latents by itself")

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> DecodedPixels:
        """One image from a batch of one; not sound where the decoder overflowed."""
        # Pipelines that start from an image have converted it.
        if self._in_bfloat16 and self._vae.dtype is not torch.bfloat16:
            self._vae.to(torch.bfloat16)
        with in_float32(self._vae) if self.in_float32 else nullcontext():
            decoded = self._vae.decode(latents.to(self._vae.dtype), return_dict=False)[0]
        # Autoencoders for videos return a video of one frame.
        return decoded_pixels(decoded[:, :, 0] if decoded.ndim == 5 else decoded)

    @torch.no_grad()
    def preview(self, size: Size, latents: torch.Tensor) -> Pixels:
        """What the latents of one image look like now. A full decoder would cost as much as several steps."""
        if self._has_faithful_previews:
            scaled = (latents / self._vae.config.scaling_factor).to(self._vae.dtype)
            # Its own method is intercepted now.
            return to_preview(type(self._vae).decode(self._vae, scaled).sample / 2 + 0.5)
        columns, rows = (side // self._side_multiple for side in size)
        return false_colour_preview(as_spatial(latents, self._layout, rows, columns))

    def tiling_fallback(self) -> Iterator[Fallback]:
        if hasattr(self._vae, "enable_tiling"):
            yield Fallback("images were encoded and decoded in tiles", self._tiled)

    @contextmanager
    def _tiled(self) -> Iterator[None]:
        vae = self._vae
        # Autoencoders with other names for their tiles have a usable size by default.
        sizes = getattr(vae, "tile_sample_min_size", 0), getattr(vae, "tile_latent_min_size", 0)
        if all(sizes):
            vae.tile_sample_min_size = min(TILE, sizes[0])
            vae.tile_latent_min_size = max(1, sizes[1] * vae.tile_sample_min_size // sizes[0])
        vae.enable_tiling()
        try:
            yield
        finally:
            vae.disable_tiling()
            if all(sizes):
                vae.tile_sample_min_size, vae.tile_latent_min_size = sizes

    @contextmanager
    def _intercepted(self) -> Iterator[None]:
        dtype = self._vae.dtype

        def reached(latents: torch.Tensor, *_: object, **__: object) -> None:
            raise _Reached(latents)

        self._vae.decode = reached
        try:
            yield
        finally:
            del self._vae.decode
            # The pipeline of Stable Diffusion XL converts it before it decodes.
            if self._vae.dtype is not dtype:
                self._vae.to(dtype)
