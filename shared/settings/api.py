"""Settings of the API."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from shared.jobs.types import ApiProtocol, Backend
from shared.settings.groups import Group
from shared.settings.http_server import HttpServerSettings, http_url, split_commas
from shared.settings.signing import SigningSettings


def _aliases(value: object) -> object:
    """`alias=model` entries as a mapping."""
    if not isinstance(value, str):
        return value
    aliases = {}
    for entry in value.split(","):
        alias, separator, model = (part.strip() for part in entry.partition("="))
        if not (alias and separator and model):
            raise ValueError("each entry must be alias=model, such as gpt-image-1=starter")
        aliases[alias] = model
    return aliases


class ApiSettings(HttpServerSettings, SigningSettings):
    """Settings that the API needs."""

    output_public_url: Annotated[str, Group.STORAGE, AfterValidator(http_url)] = ""
    """URL of the storage of SD_OUTPUT_URL for clients, such as https://s3.eu-central-1.amazonaws.com. If set, image
    links redirect to signed URLs there. If empty, the API serves the images."""
    default_backend: Annotated[Backend | None, Group.MODELS] = None
    """Backend of requests that name none. If empty: flux-api if it is in SD_BACKENDS and SD_BFL_API_KEY is set, else
    the first of SD_BACKENDS."""
    model_aliases: Annotated[dict[str, str], Group.MODELS, BeforeValidator(_aliases)] = {}
    """More names for models, comma-separated `alias=model`, for clients with a fixed list. `default` stands for the
    default model; dall-e-2, dall-e-3, gpt-image-1 and similar names do so already."""
    protocols: Annotated[tuple[ApiProtocol, ...], Group.NETWORK, BeforeValidator(split_commas), Field(min_length=1)] = (
        tuple(ApiProtocol)
    )
    """Protocols to serve, comma-separated. The native one is always served; `native` alone switches all others off."""
    client_wait_seconds: Annotated[int, Group.JOB_LIMITS, Field(ge=1, le=86_400)] = 1800
    """How long clients of other protocols wait for the image before they get an error and the job continues. Clients
    that number their attempts, and so retry by themselves, wait for SD_SYNC_TIMEOUT_SECONDS."""
    sync_timeout_seconds: Annotated[int, Group.JOB_LIMITS, Field(ge=1, le=3600)] = 110
    """How long /api/txt2img waits for the image before it returns 202 and the job continues. Most clients time out
    after 120 seconds."""
    max_queued_jobs: Annotated[int, Group.JOB_LIMITS, Field(ge=1, le=1_000_000)] = 1000
    """Maximum queued jobs; excess jobs get 429."""
    max_queued_jobs_per_backend: Annotated[int, Group.JOB_LIMITS, Field(ge=0)] = 0
    """Maximum queued jobs per backend; excess jobs get 429. 0 means no separate limit."""
    min_free_bytes: Annotated[int, Group.STORAGE, Field(ge=0)] = 268_435_456
    """Minimum free space on the disk of SD_OUTPUT_DIR; with less, no jobs are accepted."""
    max_image_bytes: Annotated[int, Group.JOB_LIMITS, Field(ge=1024)] = 20_971_520
    """Maximum file size of an input image."""
    max_request_pixels: Annotated[int, Group.JOB_LIMITS, Field(ge=4096)] = 200_000_000
    """Maximum total pixels of a request's input images and mask."""
    max_body_bytes: Annotated[int, Group.TRAFFIC_LIMITS, Field(ge=131_072)] = 67_108_864
    """Maximum size of a request body. JSON carries images as base64, which is a third larger than their files."""
    max_images_per_job: Annotated[int, Group.JOB_LIMITS, Field(ge=1, le=64)] = 4
    """Maximum num_images of a request."""
    max_pixel_steps: Annotated[int, Group.JOB_LIMITS, Field(ge=1)] = 500_000_000
    """Maximum work of a request: width x height x num_inference_steps x num_images."""
    flower_port: Annotated[int, Group.OPERATIONS, Field(ge=0, le=65_535)] = 0
    """Port of Flower on the host of the API, which the studio links to; 0 where no Flower runs."""

    def warnings(self) -> Iterator[str]:
        yield from super().warnings()
        if self.effective_default_backend not in self.backends:
            yield (
                f"SD_DEFAULT_BACKEND={self.default_backend} is not in SD_BACKENDS, and requests without a backend fail "
                f"unless another machine serves it: add it there, or choose from {', '.join(self.backends)}."
            )

    @property
    def effective_default_backend(self) -> Backend:
        """The backend of requests that name none."""
        if self.default_backend is not None:
            return self.default_backend
        has_cloud = Backend.FLUX_API in self.backends and self.bfl_api_key is not None
        return Backend.FLUX_API if has_cloud else self.backends[0]
