"""How an image becomes a file that tells how to make it again."""

import io
import json
from dataclasses import dataclass
from typing import assert_never

from PIL import Image as PillowImage

from shared.jobs.job import Job
from shared.jobs.types import OutputFormat
from worker.images import png
from worker.images.values import RenderedImage

QUALITY = 92
#: EXIF tag 0x9286, UserComment, in the Exif sub-directory 0x8769: where Stable Diffusion tools look in JPEG and WebP.
_EXIF_DIRECTORY, _USER_COMMENT = 0x8769, 0x9286


#: What concerns the caller alone, and not whoever gets to see the image.
_PRIVATE = {"label", "metadata", "webhook_url", "webhook_events", "webhook_inline_images"}


@dataclass(frozen=True)
class Encoder:
    """`version` is the service's own, written into each file."""

    version: str

    def encode(self, image: RenderedImage, job: Job) -> bytes:
        parameters = self._parameters(image, job)
        match job.request.output_format:
            case OutputFormat.PNG:
                return png.encode(image.pixels, {"parameters": parameters, "imagegen": self._recipe(image, job)})
            case OutputFormat.JPEG:
                return _with_pillow(image, parameters, "JPEG", quality=QUALITY)
            case OutputFormat.WEBP:
                return _with_pillow(image, parameters, "WEBP", quality=QUALITY)
            case _:
                assert_never(job.request.output_format)

    def _parameters(self, image: RenderedImage, job: Job) -> str:
        height, width, _ = image.pixels.shape
        request = job.request
        return png.parameters_text(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            steps=request.num_inference_steps,
            sampler=request.scheduler,
            guidance=request.guidance_scale,
            seed=image.seed,
            width=width,
            height=height,
            model=job.model or "",
            version=f"imagegen {self.version}",
        )

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


def _with_pillow(image: RenderedImage, parameters: str, file_format: str, *, quality: int) -> bytes:
    file = PillowImage.fromarray(image.pixels)
    exif = PillowImage.Exif()
    # The comment begins with its own encoding, eight bytes long (EXIF 2.3, 4.6.5).
    exif.get_ifd(_EXIF_DIRECTORY)[_USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be")
    buffer = io.BytesIO()
    file.save(buffer, file_format, quality=quality, exif=exif)
    return buffer.getvalue()
