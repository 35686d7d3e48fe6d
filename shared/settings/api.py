"""Settings of the API."""

from typing import Annotated

from pydantic import AfterValidator, Field

from shared.jobs.requests import Backend
from shared.settings.http_server import HttpServerSettings, http_url
from shared.settings.service import LinkSettings


class ApiSettings(HttpServerSettings, LinkSettings):
    """What the API needs."""

    output_public_url: Annotated[str, AfterValidator(http_url)] = ""
    """Address at which clients reach the storage of SD_OUTPUT_URL, such as https://s3.eu-central-1.amazonaws.com. Set:
    image links lead on to signed ones there. Empty: the API hands the images out."""
    default_backend: Backend | None = None
    """Engine of requests that name none. Empty: flux-api where SD_BACKENDS has it and SD_BFL_API_KEY is set, else the
    first of SD_BACKENDS."""
    sync_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 110
    """How long /api/txt2img waits for the image before it answers 202 and lets the job go on. Most clients give
    up at 120."""
    max_queued_jobs: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Jobs that may wait; one more is answered 429."""
    max_queued_jobs_per_backend: Annotated[int, Field(ge=0)] = 0
    """Jobs that may wait for one engine; 0 sets no limit of its own."""
    min_free_bytes: Annotated[int, Field(ge=0)] = 268_435_456
    """Free space on the disk of SD_OUTPUT_DIR below which no more jobs are taken."""
    max_image_bytes: Annotated[int, Field(ge=1024)] = 20_971_520
    """Largest file of an image that comes with a request."""
    max_request_pixels: Annotated[int, Field(ge=4096)] = 200_000_000
    """Most pixels of all images of a request together, its mask among them."""
    max_body_bytes: Annotated[int, Field(ge=131_072)] = 67_108_864
    """Largest request with all its images. In JSON they are base64, and take a third more than their files."""
    max_images_per_job: Annotated[int, Field(ge=1, le=64)] = 4
    """Largest num_images of a request."""
    max_pixel_steps: Annotated[int, Field(ge=1)] = 500_000_000
    """Most work of a request: width x height x num_inference_steps x num_images."""

    @property
    def effective_default_backend(self) -> Backend:
        """The backend of requests that name none."""
        if self.default_backend is not None:
            return self.default_backend
        cloud = Backend.FLUX_API in self.backends and self.bfl_api_key is not None
        return Backend.FLUX_API if cloud else self.backends[0]
