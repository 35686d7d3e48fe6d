"""Enlarges finished images with the bundled upscaler, for callers that asked for more pixels than the model makes."""

import logging
import threading

import numpy as np
import torch
from numpy.typing import NDArray

from shared.models.capabilities import Size
from worker.engines.diffusers.memory.errors import reason_of
from worker.engines.upscaling.upscaler import Upscaler
from worker.images.scaling import scaled
from worker.models.sources import UPSCALE_STARTER

logger = logging.getLogger(__name__)

#: Larger images are not upscaled, because it takes too long: four seconds for 256x256 on two cores of a laptop.
MAX_PIXELS = {"cpu": 256 * 256}
MAX_DEVICE_PIXELS = 2048 * 2048
#: An image that is enlarged by less looks the same with the Lanczos filter.
MIN_FACTOR = 1.25


class Enlarger:
    """Scales images. Thread-safe. It is loaded for the first image that needs it."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._max_pixels = MAX_PIXELS.get(device.type, MAX_DEVICE_PIXELS)
        self._lock = threading.Lock()
        self._upscaler: Upscaler | None = None

    def __call__(self, image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
        """RGB or one channel, scaled to `size`: width and height."""
        height, width = image.shape[:2]
        is_worth_it = size[0] >= MIN_FACTOR * width and height * width <= self._max_pixels
        if image.ndim == 3 and is_worth_it:
            try:
                with self._lock:
                    image = self._load().enlarge(image)
            # Without the upscaler, the job still succeeds.
            except RuntimeError as error:
                logger.warning("an image was enlarged without the upscaler: %s", reason_of(error))
        return scaled(image, size)

    def _load(self) -> Upscaler:
        if self._upscaler is None:
            self._upscaler = Upscaler.load(UPSCALE_STARTER, self._device, self._dtype)
        return self._upscaler
