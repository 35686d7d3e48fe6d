"""/docs: the one page of this service, with leave to run the one script that is in it."""

import base64
import re
from hashlib import sha256

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

#: Where Swagger UI itself comes from.
SWAGGER = "https://cdn.jsdelivr.net"


def _policy(page: bytes) -> str:
    """The Content-Security-Policy that lets this page work, and nothing else."""
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(f"'sha256-{base64.b64encode(sha256(script).digest()).decode()}'" for script in scripts)
    directives = {
        "default-src": "'none'",
        "script-src": f"{SWAGGER} {hashes}",
        "style-src": f"{SWAGGER} 'unsafe-inline'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


_PAGE = bytes(get_swagger_ui_html(openapi_url="/openapi.json", title="imagegen", swagger_favicon_url="data:,").body)
_HEADERS = {"Content-Security-Policy": _policy(_PAGE)}


@router.head("/docs")
@router.get("/docs")
async def docs() -> HTMLResponse:
    return HTMLResponse(_PAGE, headers=_HEADERS)
