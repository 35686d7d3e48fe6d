"""Reads a JSON body whose images are handled one by one, each with uploads of its own."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from api.field_errors import invalid_field
from api.intake.json_body import MAX_VALUES, body_chunks, is_small, parse_body, read_json, require_json
from api.intake.json_request import decode_image
from api.intake.json_uploads import JsonUploadReader
from api.intake.uploads import RequestUploads, UploadStore, UploadWriter
from shared.errors import InvalidRequest


@dataclass(frozen=True)
class ImageText:
    """An image as base64 or as a data: URL, and where it is in the body."""

    text: object
    pointer: str


def find_image(body: dict[str, Any]) -> list[ImageText]:
    """The image of a body that has one."""
    return [ImageText(body.get("image"), "/image")]


@dataclass(frozen=True)
class SeparateImage:
    """A stored image, which has request uploads of its own."""

    file: UploadWriter
    reference: str

    @property
    def uploads(self) -> RequestUploads:
        return self.file.uploads


async def read_separate_images(
    http: Request,
    store: UploadStore,
    exits: AsyncExitStack,
    find: Callable[[dict[str, Any]], Sequence[ImageText]],
) -> tuple[dict[str, Any], list[SeparateImage]]:
    """The body, and its images, which `exits` removes unless a job has them by then.

    Raises UnsupportedMediaType, InvalidRequest, InvalidImage, PayloadTooLarge, StorageFull and StorageUnavailable.
    """
    require_json(http)

    async def start() -> UploadWriter:
        uploads = await exits.enter_async_context(store.open_request())
        return await uploads.start(exits)

    reader = JsonUploadReader(start, MAX_VALUES)
    if is_small(http):
        body = await read_json(http)
    else:
        body = parse_body(await reader.read(body_chunks(http)), is_original=not reader.uploads)
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    images = []
    for image in find(body):
        writer = await _written(image, reader, start, store.max_bytes)
        images.append(SeparateImage(writer, await writer.finish(image.pointer)))
    return body, images


async def _written(
    image: ImageText, reader: JsonUploadReader[UploadWriter], start: Callable[[], Any], max_bytes: int
) -> UploadWriter:
    if not isinstance(image.text, str):
        raise invalid_field(image.pointer, "must be an image as base64")
    decoder = reader.uploads.get(image.text)
    if decoder is None:
        writer: UploadWriter = await start()
        await writer.write(decode_image(image.text, image.pointer, max_bytes))
        return writer
    if decoder.error:
        raise invalid_field(image.pointer, decoder.error)
    return decoder.target
