"""Requests to enlarge one image, with the Lanczos filter or an upscaler."""

from dataclasses import dataclass

from api.field_errors import invalid_field
from api.intake.images.separate_images import SeparateImage
from api.intake.submissions import Submission
from shared.jobs.requests import MAX_SIDE, MIN_SIDE, GenerationRequest
from shared.jobs.types import ApiProtocol, ResizeMode
from shared.models.capabilities import RequestLimits, Size

#: What a record of a job says in place of a prompt.
PROMPT = "enlarge this image"


@dataclass(frozen=True)
class Enlargement:
    """How much to enlarge. `box` takes precedence: the image covers it, and is cropped to it if `crops`."""

    factor: float
    box: Size | None = None
    crops: bool = False
    upscaler: str | None = None
    """None for the Lanczos filter."""

    def submission(
        self, image: SeparateImage, limits: RequestLimits, origin: ApiProtocol, warnings: tuple[str, ...], pointer: str
    ) -> Submission:
        """Raises InvalidRequest, which names the field that `pointer` leads to."""
        request = GenerationRequest(prompt=PROMPT, image=(image.reference,))
        width, height = self._size(image.uploads.first_image_size(request) or (1, 1))
        if max(width, height) > MAX_SIDE or width * height > limits.max_pixels:
            detail = f"would make an image of {width}x{height}; at most {limits.max_pixels} pixels are allowed"
            raise invalid_field(pointer, detail)
        fields: dict[str, object]
        if self.upscaler is None:
            fields = {"resize_only": True, "output_width": width, "output_height": height}
        else:
            fields = {"model": self.upscaler, "width": width, "height": height}
        if self.crops and self.box is not None:
            fields["resize_mode"] = ResizeMode.CROP
        return Submission(request.model_copy(update=fields), image.uploads, origin, warnings)

    def _size(self, given: Size) -> Size:
        if self.crops and self.box is not None:
            return self.box
        factor = self.factor if self.box is None else max(self.box[0] / given[0], self.box[1] / given[1])
        return max(MIN_SIDE, round(given[0] * factor)), max(MIN_SIDE, round(given[1] * factor))
