"""Enlarges images with a network, in tiles that fit into memory."""

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import numpy as np
import torch

from worker.engines.diffusers.memory.errors import is_out_of_memory
from worker.engines.diffusers.memory.out_of_memory import free_memory
from worker.engines.upscaling.network_files import Network, load_network
from worker.images.values import Pixels

logger = logging.getLogger(__name__)

#: Sides of tiles in pixels of the input, largest first: the next one is tried whenever memory is short.
TILES = (512, 256, 128, 64)
#: Neighbouring pixels that each tile sees on every side. The compact network looks 18 pixels far; those of ESRGAN look
#: further, but no difference is visible beyond this.
OVERLAP = 20

#: Called after each tile with the number of finished tiles and of all tiles. An exception ends the work.
OnTile = Callable[[int, int], None]
#: Left, top, right, bottom.
Box = tuple[int, int, int, int]


class Upscaler:
    """Not thread-safe: one image at a time."""

    def __init__(self, network: Network, device: torch.device, dtype: torch.dtype) -> None:
        self._network = network.to(device, dtype)
        self._device, self._dtype = device, dtype
        self._tile = TILES[0]

    @classmethod
    def load(cls, path: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """Raises ConfigurationError."""
        return cls(load_network(path), device, dtype)

    @property
    def scale(self) -> int:
        return self._network.scale

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._network.state_dict().values())

    def to(self, device: torch.device) -> None:
        self._device = device
        self._network.to(device)

    def enlarge(self, pixels: Pixels, on_tile: OnTile = lambda *_: None) -> Pixels:
        """`scale` times as wide and high. Raises what `on_tile` raises, and the error of the last, smallest tiles."""
        while True:
            try:
                return self._enlarge(pixels, on_tile)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self._tile == TILES[-1]:
                    raise
            # Only after the handler: until then the traceback holds every tensor of the attempt.
            free_memory()
            self._tile = TILES[TILES.index(self._tile) + 1]
            logger.warning("out of memory; enlarging in tiles of %d pixels", self._tile)

    @torch.inference_mode()
    def _enlarge(self, pixels: Pixels, on_tile: OnTile) -> Pixels:
        height, width, _ = pixels.shape
        scale = self.scale
        enlarged = np.empty((height * scale, width * scale, 3), np.uint8)
        boxes = list(tile_boxes(width, height, self._tile))
        for number, (left, top, right, bottom) in enumerate(boxes, 1):
            outer = (max(0, left - OVERLAP), max(0, top - OVERLAP), right + OVERLAP, bottom + OVERLAP)
            tile = self._run(pixels[outer[1] : outer[3], outer[0] : outer[2]])
            x, y = (left - outer[0]) * scale, (top - outer[1]) * scale
            inner = tile[y : y + (bottom - top) * scale, x : x + (right - left) * scale]
            enlarged[top * scale : bottom * scale, left * scale : right * scale] = inner
            on_tile(number, len(boxes))
        return enlarged

    def _run(self, pixels: Pixels) -> Pixels:
        height, width, _ = pixels.shape
        unshuffle = getattr(self._network, "unshuffle", 1)
        padding = ((0, -height % unshuffle), (0, -width % unshuffle), (0, 0))
        image = torch.from_numpy(np.pad(pixels, padding, "edge")).to(self._device)
        image = image.permute(2, 0, 1)[None].to(self._dtype) / 255
        enlarged = self._network(image)[0].permute(1, 2, 0)[: height * self.scale, : width * self.scale]
        rounded: Pixels = (enlarged.float() * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        return rounded


def tile_boxes(width: int, height: int, side: int) -> Iterator[Box]:
    """Boxes that cover the image, nearly equally large and none larger than `side`; row by row."""
    columns, rows = math.ceil(width / side), math.ceil(height / side)
    for row in range(rows):
        for column in range(columns):
            yield (
                column * width // columns,
                row * height // rows,
                (column + 1) * width // columns,
                (row + 1) * height // rows,
            )
