"""Files that clients upload before they name them in an input: POST /v1/files.

Nothing is stored. The address of a file is a data: URL with its content, which the client sends back with the input.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from uuid_utils import uuid7

from api.delivery.inline_images import CHUNK_BYTES
from api.delivery.stream_limit import ExitsDep
from api.edge.authentication import CallerDep
from api.field_errors import invalid_field
from api.intake.multipart_form import FORM_MEDIA_TYPE, MultipartForm
from api.intake.openapi_bodies import TEXT, object_schema, request_body
from api.services import ServicesDep
from shared.errors import NotFound
from shared.storage.object_store import HASH_PREFIX, Upload

router = APIRouter()
_FORM = object_schema({"content": {**TEXT, "format": "binary"}}, ["content"])


@router.post(
    "/v1/files",
    operation_id="replicateCreateFile",
    status_code=201,
    response_class=Response,
    openapi_extra=request_body({FORM_MEDIA_TYPE: {"schema": _FORM}}),
)
async def create_file(http: Request, services: ServicesDep, caller: CallerDep, exits: ExitsDep) -> Response:
    """Take an image, and answer with an address that an input may have in its place."""
    # Until the answer is sent, the image is a file: slow clients take no memory, and slots bound their files.
    exits.enter_context(services.stream_limit.slot(caller.client_id))
    uploads = await exits.enter_async_context(services.uploads.open_request())
    form = MultipartForm(http)
    async for part in form.parts():
        if part.name == "content":
            upload = await uploads.start()
            async for chunk in form.data():
                await upload.write(chunk)
                upload.check_size("/content")
            size, reference = upload.file.size, await upload.finish("/content")
            media_type = f"image/{uploads.image_format(reference).lower()}"
            text = json.dumps(_file(reference, size, media_type, part.file_name or "file"))
            headers = {"Content-Length": str(len(text) + -(-size // 3) * 4)}
            return StreamingResponse(_with_content(text, upload.file, size), 201, headers, "application/json")
    raise invalid_field("/content", "is missing")


@router.get("/v1/files", operation_id="replicateListFiles")
async def list_files(_: CallerDep) -> dict[str, Any]:
    """No file is kept."""
    return {"results": [], "next": None, "previous": None}


@router.get("/v1/files/{file_id}", operation_id="replicateGetFile")
async def get_file(_: CallerDep, file_id: str) -> dict[str, Any]:
    """No file is kept."""
    raise NotFound(f"The file {file_id[:40]} is not kept: send it again with the input.")


async def _with_content(text: str, file: Upload, size: int) -> AsyncIterator[bytes]:
    """The answer, whose last text is an address that ends with the content of the file."""
    closing = '"}}'
    yield text.removesuffix(closing).encode()
    for start in range(0, size, CHUNK_BYTES):
        yield base64.b64encode(await asyncio.to_thread(file.read, start, CHUNK_BYTES))
    yield closing.encode()


def _file(reference: str, size: int, media_type: str, name: str) -> dict[str, Any]:
    digest = reference.removeprefix(HASH_PREFIX)
    return {
        "id": str(uuid7()),
        "name": name,
        "content_type": media_type,
        "size": size,
        "etag": digest,
        "checksums": {"sha256": digest},
        "metadata": {},
        "created_at": datetime.now(UTC).isoformat(),
        "expires_at": None,
        "urls": {"get": f"data:{media_type};base64,"},
    }
