"""Picture bytes: one way to send them, with validators and ranges."""

import asyncio
import hashlib
import stat
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from api.callers import CallerDep
from api.problems import about, documented
from api.services import ServicesDep
from shared.errors import ImageNotFound
from shared.images import ImageStore
from shared.schemas import Image, Job

router = APIRouter(tags=["jobs"])

#: A picture never changes once it is recorded.
CACHE_CONTROL = "private, max-age=31536000, immutable"


@router.head("/api/jobs/{job_id}/images/{index}", include_in_schema=False)
@router.get(
    "/api/jobs/{job_id}/images/{index}",
    response_class=FileResponse,
    responses={
        200: {"content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}}},
        206: {"description": "The part that `Range` asked for"},
        304: {"description": "`If-None-Match` names this very picture"},
        416: {"description": "`Range` lies outside of the picture"},
        **documented(
            "unauthorized", "invalid-request", "job-not-found", "image-not-found", "rate-limited", "store-unavailable"
        ),
    },
)
async def picture(http: Request, services: ServicesDep, caller: CallerDep, job_id: str, index: int) -> Response:
    """The bytes of one picture."""
    job = (await services.find(caller, job_id)).job
    about(http, job.id)
    image = next((image for image in job.images if image.index == index), None)
    if image is None:
        raise ImageNotFound
    return await serve_picture(services.images, job, image, http)


async def serve_picture(store: ImageStore, job: Job, image: Image, http: Request) -> Response:
    """Raises ImageNotFound when the file is gone, is not the one that was recorded, or was never to be seen."""
    if image.flagged:
        raise ImageNotFound("The safety checker withheld this picture.")
    path = await asyncio.to_thread(_checked, store, job, image)
    headers = {"ETag": f'"{image.sha256}"', "X-Job-Id": job.id, "Cache-Control": CACHE_CONTROL}
    headers["X-Seed"] = str(image.seed)
    asked = http.headers.get("if-none-match", "")
    if asked.strip() == "*" or f'"{image.sha256}"' in asked:
        return Response(status_code=304, headers=headers)
    # One range is served; a list of ranges is not, as RFC 9110 allows: it only serves to make work.
    if "," in http.headers.get("range", ""):
        http.scope["headers"] = [pair for pair in http.scope["headers"] if pair[0] != b"range"]
    return FileResponse(
        path, media_type=image.media_type, headers=headers, filename=path.name, content_disposition_type="inline"
    )


async def pictures_of(store: ImageStore, job: Job) -> dict[int, bytes]:
    """The bytes by index of every picture whose file is still there."""

    def read_all() -> dict[int, bytes]:
        found = ((image.index, store.read(job, image)) for image in job.images)
        return {index: data for index, data in found if data is not None}

    return await asyncio.to_thread(read_all)


def _checked(store: ImageStore, job: Job, image: Image) -> Path:
    """Where the picture lies. Raises ImageNotFound when its file is not the very one that was recorded."""
    path = store.path(job, image.index)
    try:
        about = path.stat(follow_symlinks=False)
        as_recorded = (
            stat.S_ISREG(about.st_mode)
            and about.st_size == image.bytes
            and _hash_of(path, about.st_ino, about.st_mtime_ns) == image.sha256
        )
    except OSError:
        as_recorded = False
    if not as_recorded:
        raise ImageNotFound("The file of this picture is gone or damaged.")
    return path


@lru_cache(maxsize=4096)
def _hash_of(path: Path, _inode: int, _modified_ns: int) -> str:
    """Read once for each version of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
