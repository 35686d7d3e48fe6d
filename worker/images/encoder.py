"""Encodes rendered images as files whose metadata says how to generate them again."""

import io
import json
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
from PIL import Image as PillowImage

from shared.jobs.job import Job
from shared.jobs.types import OutputFormat
from shared.jobs.web_ui.infotext import infotext
from worker.images.png import PngEncoder
from worker.images.values import Pixels, RenderedImage

QUALITY = 92
#: EXIF tag 0x9286, UserComment, in the Exif sub-directory 0x8769: where Stable Diffusion tools look in JPEG and WebP.
_EXIF_DIRECTORY, _USER_COMMENT = 0x8769, 0x9286


#: For the caller only, not for everybody who sees the image.
_PRIVATE = {"label", "metadata", "webhook_url", "webhook_events", "webhook_inline_images"}


@dataclass(frozen=True)
class Encoder:
    version: str
    """The version of this service, written into each file."""
    png: PngEncoder = field(default_factory=PngEncoder)

    def encode(self, image: RenderedImage, job: Job, *, in_bands: bool = True) -> bytes:
        """`in_bands`: see PngEncoder."""
        parameters = self._parameters(image, job)
        match job.request.output_format:
            case OutputFormat.PNG:
                texts = {"parameters": parameters, "imagegen": self._recipe(image, job)}
                return self.png.encode(_with_opacity(image), texts, in_bands=in_bands)
            case OutputFormat.JPEG:
                return _encode_with_exif(image, parameters, "JPEG", job.request.output_quality)
            case OutputFormat.WEBP:
                return _encode_with_exif(image, parameters, "WEBP", job.request.output_quality)
            case _:
                assert_never(job.request.output_format)

    def _parameters(self, image: RenderedImage, job: Job) -> str:
        """The text that AUTOMATIC1111's web UI writes under the keyword `parameters`."""
        height, width, _ = image.pixels.shape
        return infotext(job, image.seed, (width, height), self.version)

    def _recipe(self, image: RenderedImage, job: Job) -> str:
        recipe = {
            "request": job.request.to_json(exclude=_PRIVATE),
            "seed": image.seed,
            "backend": job.backend,
            "model": job.model,
            "job": job.id,
            "version": self.version,
        }
        return json.dumps(recipe, ensure_ascii=False)


def _encode_with_exif(image: RenderedImage, parameters: str, file_format: str, quality: int | None) -> bytes:
    file = PillowImage.fromarray(_on_white(image) if file_format == "JPEG" else _with_opacity(image))
    exif = PillowImage.Exif()
    # The comment starts with the name of its encoding, eight bytes long (EXIF 2.3, 4.6.5).
    exif.get_ifd(_EXIF_DIRECTORY)[_USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be")
    buffer = io.BytesIO()
    file.save(buffer, file_format, quality=quality or QUALITY, exif=exif)
    return buffer.getvalue()


def _with_opacity(image: RenderedImage) -> Pixels:
    """RGB, or RGBA of shape (height, width, 4)."""
    return image.pixels if image.opacity is None else np.dstack((image.pixels, image.opacity))


def _on_white(image: RenderedImage) -> Pixels:
    if image.opacity is None:
        return image.pixels
    flat = PillowImage.new("RGB", (image.pixels.shape[1], image.pixels.shape[0]), "white")
    flat.paste(PillowImage.fromarray(image.pixels), mask=PillowImage.fromarray(image.opacity))
    return np.asarray(flat)
