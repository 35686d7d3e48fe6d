"""Reads a JSON body whose images are handled one by one, each with uploads of its own."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from api.field_errors import invalid_field
from api.intake.json_body import require_json
from api.intake.json_request import read_body, written_image
from api.intake.uploads import UploadStore, UploadWriter
from shared.errors import InvalidRequest


@dataclass(frozen=True)
class ImageText:
    """An image as base64 or as a data: URL, and where it is in the body."""

    text: object
    pointer: str


def find_image(body: dict[str, Any]) -> list[ImageText]:
    """The image of a body that has one."""
    return [ImageText(body.get("image"), "/image")]


async def read_separate_images(
    http: Request,
    store: UploadStore,
    exits: AsyncExitStack,
    find: Callable[[dict[str, Any]], Sequence[ImageText]],
) -> tuple[dict[str, Any], list[UploadWriter]]:
    """The body, and its stored images, which `exits` removes unless a job has them by then.

    Raises UnsupportedMediaType, InvalidRequest, InvalidImage, PayloadTooLarge, StorageFull and StorageUnavailable.
    """
    require_json(http)

    async def start() -> UploadWriter:
        uploads = await exits.enter_async_context(store.open_request())
        return await uploads.start()

    body, started = await read_body(http, start)
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    images = []
    for image in find(body):
        if not isinstance(image.text, str):
            raise invalid_field(image.pointer, "must be an image as base64")
        upload = await written_image(image.text, image.pointer, started, start, store.settings.max_image_bytes)
        await upload.finish(image.pointer)
        images.append(upload)
    return body, images
