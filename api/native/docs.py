"""Serves Swagger UI at /docs, from this server alone and with a strict Content-Security-Policy."""

import base64
from functools import lru_cache
from hashlib import sha256
from html import escape
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse

from api.edge.public_paths import DOCS_FILES
from api.edge.security_headers import content_security_policy
from shared.errors import NotFound

router = APIRouter(include_in_schema=False)

#: Vendored files; vendor.toml there names their version and digests, which a test checks.
FOLDER = Path(__file__).with_name("swagger")
#: Short, because the addresses do not contain the version.
CACHE_CONTROL = "public, max-age=3600"

_SCRIPT = """
SwaggerUIBundle({{
  url: '{prefix}/openapi.json', dom_id: '#ui', layout: 'BaseLayout',
  deepLinking: true, persistAuthorization: false, validatorUrl: null,
}})
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>imagegen</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{prefix}/docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="{prefix}/docs/swagger-ui-bundle.js"></script>
<script>{script}</script>
</body>
</html>
"""


@lru_cache(maxsize=16)
def _page(prefix: str) -> tuple[str, str]:
    """The page, and the Content-Security-Policy that it needs."""
    prefix = quote(prefix)
    script = _SCRIPT.format(prefix=prefix)
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    allowed = {
        "script-src": f"'self' 'sha256-{digest}'",
        "style-src": "'self'",
        # Icons in the style sheet are data: URLs; Swagger UI shows answers that are images as blob: URLs.
        "img-src": "'self' data: blob:",
        "connect-src": "'self'",
    }
    return _PAGE.format(prefix=escape(prefix), script=script), content_security_policy(allowed)


@router.get("/docs")
async def get_docs(http: Request) -> HTMLResponse:
    page, policy = _page(http.scope.get("root_path", ""))
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


@router.get("/docs/{name}")
async def get_docs_file(name: str) -> FileResponse:
    if name not in DOCS_FILES:
        raise NotFound
    return FileResponse(FOLDER / name, media_type=DOCS_FILES[name], headers={"Cache-Control": CACHE_CONTROL})
