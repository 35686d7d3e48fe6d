"""Serves the studio: a page at `/`, and its files as they are, with a strict Content-Security-Policy."""

import gzip
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from html import escape
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from api.delivery.image_files import client_has
from api.edge.public_paths import STUDIO_FILES, STUDIO_FOLDER, STUDIO_PATH
from api.edge.security_headers import content_security_policy
from api.services import Services, ServicesDep
from shared.errors import NotFound

router = APIRouter(include_in_schema=False)

#: Browsers revalidate the page each time, usually with 304. The paths of its files change with them.
PAGE_CACHE, FILES_CACHE = "no-cache", "public, max-age=31536000, immutable"
_LINKS = {
    "studio": "/",
    "docs": "/docs",
    "openapi": "/openapi.json",
    "health": "/health",
    "info": "/info",
    "jobs": "/api/jobs",
}


@dataclass(frozen=True)
class StaticFile:
    content: bytes
    compressed: bytes
    etag: str
    media_type: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> "StaticFile":
        return cls(content, gzip.compress(content, mtime=0), f'"{sha256(content).hexdigest()[:32]}"', media_type)


@lru_cache(maxsize=256)
def _file(name: str) -> StaticFile:
    return StaticFile.of((STUDIO_FOLDER / name).read_bytes(), STUDIO_FILES[name])


@lru_cache(maxsize=16)
def _page(prefix: str, flower_port: int, *, needs_key: bool) -> StaticFile:
    """The page. It names all modules, so that the browser loads them at once and not level by level."""
    files = f"{escape(quote(prefix))}{STUDIO_PATH}"
    modules = (name for name, media_type in STUDIO_FILES.items() if media_type == "text/javascript")
    preloads = "\n".join(f'<link rel="modulepreload" href="{files}/{name}">' for name in modules)
    text = (STUDIO_FOLDER / "index.html").read_text(encoding="utf-8")
    page = text.replace("{files}", files).replace("{preloads}", preloads).replace("{prefix}", escape(quote(prefix)))
    page = page.replace("{needs_key}", "yes" if needs_key else "no").replace("{flower_port}", str(flower_port))
    return StaticFile.of(page.encode(), "text/html")


@lru_cache(maxsize=4)
def _policy(bucket: str) -> str:
    """`bucket` is the origin that image links redirect to; '' if this server sends all images."""
    elsewhere = f" {bucket}" if bucket else ""
    allowed = {
        "script-src": "'self'",
        "style-src": "'self'",
        # Previews are data: URLs; images that were chosen or painted are blob: URLs.
        "img-src": f"'self' blob: data:{elsewhere}",
        "connect-src": f"'self'{elsewhere}",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return content_security_policy(allowed)


@router.get("/")
async def get_root(http: Request, services: ServicesDep) -> Response:
    """The page for browsers; links for programs."""
    if "text/html" not in http.headers.get("accept", ""):
        base_url = services.base_url(http)
        links = {name: f"{base_url}{path}" for name, path in _LINKS.items()}
        body = {"name": "imagegen", "version": services.version, "links": links}
        return JSONResponse(body, headers={"Vary": "Accept"})
    settings = services.settings
    page = _page(http.scope.get("root_path", ""), settings.flower_port, needs_key=bool(settings.api_key))
    return _send(page, http, PAGE_CACHE, {"Content-Security-Policy": _policy(_bucket(services))})


@router.get(STUDIO_PATH + "/{name:path}")
async def get_studio_file(http: Request, name: str) -> Response:
    if name not in STUDIO_FILES:
        raise NotFound
    return _send(_file(name), http, FILES_CACHE, {})


def _send(file: StaticFile, http: Request, cache: str, headers: dict[str, str]) -> Response:
    headers = {**headers, "ETag": file.etag, "Cache-Control": cache, "Vary": "Accept, Accept-Encoding"}
    if client_has(file.etag, http):
        return Response(status_code=304, headers=headers)
    if "gzip" not in http.headers.get("accept-encoding", ""):
        return Response(file.content, headers=headers, media_type=file.media_type)
    headers["Content-Encoding"] = "gzip"
    return Response(file.compressed, headers=headers, media_type=file.media_type)


def _bucket(services: Services) -> str:
    url = urlsplit(services.settings.output_public_url)
    return f"{url.scheme}://{url.netloc}" if url.netloc else ""
