"""What tools return: texts, small previews, and links to the images."""

import base64
import json
from typing import TYPE_CHECKING

from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent

from api.delivery.image_files import read_image, read_preview
from api.models.views import model_view
from shared.access.links import Links
from shared.errors import ImageNotFound
from shared.jobs.job import Image, Job
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.states import State
from shared.storage.images import THUMBNAIL_MEDIA_TYPE

if TYPE_CHECKING:
    from api.models.offered import OfferedModels
    from api.protocols.mcp.calls import Call

#: Clients accept about a megabyte in one result.
MAX_PREVIEWS = 4
#: An image of at most this size is its own preview.
MAX_PREVIEW_BYTES = 200_000
#: base64 of it stays below what the SDK's own client accepts in one event.
MAX_FULL_BYTES = 700_000


async def job_result(call: "Call", snapshot: JobSnapshot) -> CallToolResult:
    """The images of a finished job, how it failed, or that it goes on."""
    job = snapshot.job
    if job.error is not None:
        return _text(f"Job {job.id} failed: {job.error.detail} ({job.error.code})", is_error=True)
    if job.state is State.CANCELLED:
        return _text(f"Job {job.id} was cancelled.")
    if not job.state.is_terminal:
        return _text(_unfinished(snapshot))
    content: list[ContentBlock] = [_plain(_summary(job, await call.services.links(call.http)))]
    content += [
        await _preview(call, job, image) for image in job.images if not image.flagged and image.index < MAX_PREVIEWS
    ]
    return CallToolResult(content=content)


async def image_result(call: "Call", snapshot: JobSnapshot, index: int, *, full: bool) -> CallToolResult:
    """Raises ImageNotFound."""
    job = snapshot.job
    image = next((image for image in job.images if image.index == index and not image.flagged), None)
    if image is None:
        raise ImageNotFound(f"The job is {job.state} and has no image {index}.")
    url = (await call.services.links(call.http)).image(job.id, index)
    if full and (image.bytes or 0) > MAX_FULL_BYTES:
        text = f"The image has {image.bytes} bytes, more than clients accept in a result. It is at {url}"
        return CallToolResult(content=[_plain(text), await _preview(call, job, image)])
    shown = await _full(call, job, image) if full else await _preview(call, job, image)
    return CallToolResult(content=[shown, _plain(_described(image, url))])


def models_result(models: "OfferedModels") -> CallToolResult:
    views = [model_view(model).model_dump(mode="json", exclude_none=True) for model in models]
    return _text(json.dumps(views, ensure_ascii=False))


def _summary(job: Job, links: Links) -> str:
    """With links as text: many clients refuse a result with a resource_link, or hide it from the model."""
    images = [image for image in job.images if not image.flagged]
    lines = [f"Job {job.id} made {len(images)} of {job.request.num_images} images with {job.model}."]
    lines += [f"Image {image.index}: {_described(image, links.image(job.id, image.index))}" for image in images]
    return "\n".join([*lines, *(f"Warning: {warning}" for warning in job.warnings)])


def _described(image: Image, url: str) -> str:
    return f"{image.width}x{image.height}, seed {image.seed}: {url}"


def _unfinished(snapshot: JobSnapshot) -> str:
    job, progress = snapshot.job, snapshot.progress
    where = f" at position {snapshot.queue_position}" if snapshot.queue_position is not None else ""
    done = f", step {progress.step} of {progress.steps}" if progress else ""
    return f"Job {job.id} is {job.state}{where}{done}. Call wait_for_job with this id for its images."


async def _preview(call: "Call", job: Job, image: Image) -> ContentBlock:
    """A small form of the image; a text where there is none."""
    if (image.bytes or 0) <= MAX_PREVIEW_BYTES:
        return await _full(call, job, image)
    preview = await read_preview(call.services.image_store, job, image)
    if preview is None:
        return _plain(f"Image {image.index} has no preview; get_image with size=full returns it.")
    return _image(preview, THUMBNAIL_MEDIA_TYPE)


async def _full(call: "Call", job: Job, image: Image) -> ImageContent:
    return _image(await read_image(call.services.image_store, job, image), image.media_type)


def _image(data: bytes, media_type: str) -> ImageContent:
    return ImageContent(type="image", data=base64.b64encode(data).decode(), mime_type=media_type)


def _plain(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _text(text: str, *, is_error: bool = False) -> CallToolResult:
    return CallToolResult(content=[_plain(text)], is_error=is_error)
