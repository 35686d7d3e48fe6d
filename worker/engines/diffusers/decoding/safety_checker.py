"""Flags images to withhold: CLIP compares them with concepts that the checker's publisher does not disclose."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessorPil

from shared.errors import ConfigurationError
from worker.engines.diffusers.loading.pipeline_loading import load_part
from worker.engines.diffusers.memory.errors import is_out_of_memory, reason_of
from worker.engines.diffusers.memory.out_of_memory import free_memory
from worker.engines.diffusers.memory.shared_parts import SharedParts
from worker.images.values import Pixels
from worker.models.contents.part_sources import folder_source

logger = logging.getLogger(__name__)

#: The folders of a Stable Diffusion 1.5 model that hold its own checker.
CHECKER_PART, PROCESSOR_PART = "safety_checker", "feature_extractor"
#: Values of the capability `safety`: images are checked, or the operator has switched the checker off.
CHECKED, OFF = "checked", "off"


class SafetyChecker:
    """Only reports; it changes no image."""

    def __init__(self, checker: Any, processor: Any, device: torch.device) -> None:
        # Half precision is unreliable on Apple's GPU; the CPU takes a second.
        on_gpu = device.type == "cuda"
        place, dtype = (device, torch.float16) if on_gpu else (torch.device("cpu"), torch.float32)
        self._checker = checker.to(place, dtype).eval()
        self._processor = processor

    @classmethod
    def load(cls, folder: Path, device: torch.device, shared: SharedParts) -> "SafetyChecker":
        """From the folder of a checker, or of a model that includes one. Raises ConfigurationError."""
        is_model = (folder / CHECKER_PART).is_dir()
        part, processor_part = (CHECKER_PART, PROCESSOR_PART) if is_model else ("", "")
        options = {"subfolder": processor_part, "local_files_only": True}
        try:
            source = folder_source(CHECKER_PART, folder / part, "float32")
            checker = shared.find(source) if source else None
            if checker is None:
                # load_part refuses incomplete weights: a checker with random weights flags nothing.
                checker = load_part(StableDiffusionSafetyChecker, folder, part, torch.float32)
            loaded = cls(checker, CLIPImageProcessorPil.from_pretrained(str(folder), **options), device)
        except Exception as error:
            raise ConfigurationError(
                f"The safety checker {folder} could not be loaded: {reason_of(error)}. Set SD_SAFETY_CHECKER_ID to "
                "another checker (a Hugging Face id or a local folder), or SD_SAFETY_CHECKER=false to run without one."
            ) from error
        shared.offer([(source, checker)] if source else [])
        return loaded

    def is_flagged(self, pixels: Pixels) -> bool:
        try:
            return self._check(pixels)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self._checker.device.type == "cpu":
                raise
        logger.warning("the safety checker no longer fits beside the model; it continues on the CPU")
        # For all models that have it.
        self._checker.to("cpu", torch.float32)
        free_memory()
        return self._check(pixels)

    @torch.no_grad()
    def _check(self, pixels: Pixels) -> bool:
        values = self._processor(Image.fromarray(pixels), return_tensors="pt").pixel_values
        # The checker blackens flagged images; it gets a dummy to blacken.
        dummy = [np.zeros((1, 1, 3), np.float32)]
        _, flagged = self._checker(clip_input=values.to(self._checker.device, self._checker.dtype), images=dummy)
        return bool(flagged[0])


def load_checker(model: Path, find: Callable[[], Path], device: torch.device, shared: SharedParts) -> SafetyChecker:
    """The model's own checker if it has one that works, or else the one that `find` finds.

    Raises ConfigurationError.
    """
    if (model / CHECKER_PART).is_dir():
        try:
            return SafetyChecker.load(model, device, shared)
        except ConfigurationError as error:
            logger.warning("using the checker of SD_SAFETY_CHECKER_ID instead: %s", error.detail)
    return SafetyChecker.load(find(), device, shared)


def flag_images(checker: SafetyChecker | None, images: Sequence[Pixels]) -> list[bool]:
    return [checker is not None and checker.is_flagged(pixels) for pixels in images]
