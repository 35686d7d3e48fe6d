"""Files that clients upload before they name them in an input: POST /v1/files.

Nothing is stored. The address of a file is a data: URL with its content, which the client sends back with the input.
"""

import asyncio
import base64
import hashlib
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from uuid_utils import uuid7

from api.edge.authentication import CallerDep
from api.field_errors import invalid_field
from api.intake.multipart_form import FORM_MEDIA_TYPE, MultipartForm
from api.problems import problem_responses
from api.services import ServicesDep
from shared.errors import NotFound, PayloadTooLarge

router = APIRouter()
MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@router.post(
    "/v1/files",
    operation_id="replicateCreateFile",
    status_code=201,
    responses=problem_responses("invalid-request", "payload-too-large"),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                FORM_MEDIA_TYPE: {
                    "schema": {
                        "type": "object",
                        "properties": {"content": {"type": "string", "format": "binary"}},
                        "required": ["content"],
                    }
                }
            },
        }
    },
)
async def create_file(http: Request, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """Take an image, and answer with an address that an input may have in its place."""
    # The slots of a caller bound the memory that its files take.
    with services.stream_limit.slot(caller.client_id):
        form = MultipartForm(http)
        async for part in form.parts():
            if part.name == "content":
                content = await _read(form, services.settings.max_image_bytes)
                return await asyncio.to_thread(_file, content, part.file_name or "file")
    raise invalid_field("/content", "is missing")


async def _read(form: MultipartForm, max_bytes: int) -> bytes:
    content = bytearray()
    async for chunk in form.data():
        content += chunk
        if len(content) > max_bytes:
            raise PayloadTooLarge(f"A file may have at most {max_bytes} bytes.")
    return bytes(content)


@router.get("/v1/files", operation_id="replicateListFiles")
async def list_files(_: CallerDep) -> dict[str, Any]:
    """No file is kept."""
    return {"results": [], "next": None, "previous": None}


@router.get("/v1/files/{file_id}", operation_id="replicateGetFile", responses=problem_responses("not-found"))
async def get_file(_: CallerDep, file_id: str) -> dict[str, Any]:
    """No file is kept."""
    raise NotFound(f"The file {file_id[:40]} is not kept: send it again with the input.")


def _file(content: bytes, name: str) -> dict[str, Any]:
    kind = next((kind for magic, kind in MEDIA_TYPES.items() if content.startswith(magic)), "application/octet-stream")
    digest = hashlib.sha256(content).hexdigest()
    return {
        "id": str(uuid7()),
        "name": name,
        "content_type": kind,
        "size": len(content),
        "etag": digest,
        "checksums": {"sha256": digest},
        "metadata": {},
        "created_at": datetime.now(UTC).isoformat(),
        "expires_at": None,
        "urls": {"get": f"data:{kind};base64,{base64.b64encode(content).decode()}"},
    }
