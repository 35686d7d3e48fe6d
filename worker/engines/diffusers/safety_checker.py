"""Which images are not to be shown: CLIP compares them with concepts that its publisher keeps to itself."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessorPil

from shared.errors import ConfigurationError
from worker.engines.diffusers.out_of_memory import free_memory, is_out_of_memory
from worker.engines.diffusers.pipeline_loading import load_part, reason_of
from worker.images.values import Pixels

logger = logging.getLogger(__name__)

#: The folders that a Stable Diffusion 1.5 model has its own checker in.
PART, PROCESSOR_PART = "safety_checker", "feature_extractor"
#: What capabilities tell of a model whose images are checked, and where the operator has switched that off.
CHECKED, OFF = "checked", "off"


class SafetyChecker:
    """Its verdict is data: it changes no image."""

    def __init__(self, checker: Any, processor: Any, device: torch.device) -> None:
        # On Apple's GPU, half precision is not to be relied on; the CPU takes a second.
        self._device = device if device.type == "cuda" else torch.device("cpu")
        dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        self._checker = checker.to(self._device, dtype).eval()
        self._processor = processor

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "SafetyChecker":
        """From the folder of a checker, or of a model that has one among its parts. Raises ConfigurationError."""
        try:
            checker, processor = _parts(folder)
            return cls(checker, processor, device)
        except Exception as error:
            raise ConfigurationError(
                f"The safety checker {folder} could not be loaded: {reason_of(error)}. SD_SAFETY_CHECKER_ID names "
                "another one, a local folder too; SD_SAFETY_CHECKER=false works without."
            ) from error

    def flags(self, images: Sequence[Pixels]) -> list[bool]:
        """Which of them to withhold."""
        return [self._flags(pixels) for pixels in images]

    def _flags(self, pixels: Pixels) -> bool:
        try:
            return self._judge(pixels)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self._device.type == "cpu":
                raise
        logger.warning("the safety checker does not fit beside the model any more; it goes on on the CPU")
        self._device = torch.device("cpu")
        self._checker.to(self._device, torch.float32)
        free_memory()
        return self._judge(pixels)

    @torch.no_grad()
    def _judge(self, pixels: Pixels) -> bool:
        values = self._processor(Image.fromarray(pixels), return_tensors="pt").pixel_values
        # It would paint over what it flags; it gets something else to paint over.
        canvas = [np.zeros((1, 1, 3), np.float32)]
        _, flagged = self._checker(clip_input=values.to(self._device, self._checker.dtype), images=canvas)
        return bool(flagged[0])


def _parts(folder: Path) -> tuple[Any, Any]:
    part, processor_part = (PART, PROCESSOR_PART) if (folder / PART).is_dir() else ("", "")
    # What is missing would be made up, and a checker with made up weights finds nothing to object to.
    checker = load_part(StableDiffusionSafetyChecker, folder, part, torch.float32)
    return checker, CLIPImageProcessorPil.from_pretrained(str(folder), subfolder=processor_part, local_files_only=True)
