"""Lists the paths that are served without an API key."""

from hashlib import sha256
from pathlib import Path

#: Orchestrators probe these without a key.
PROBES = frozenset({"/health/live", "/health/ready"})
#: Vendored files of the page at /docs, with their media types.
DOCS_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
#: The page of the studio.
STUDIO_FOLDER = Path(__file__).parents[1] / "studio" / "static"
_STUDIO_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
#: The files of the studio that are served, with their media types.
STUDIO_FILES = {
    path.relative_to(STUDIO_FOLDER).as_posix(): _STUDIO_TYPES[path.suffix]
    for path in sorted(STUDIO_FOLDER.rglob("*"))
    if path.suffix in _STUDIO_TYPES
}
#: Their path. It changes with any of them, so that browsers can cache them for good.
STUDIO_PATH = (
    "/studio/" + sha256(b"".join((STUDIO_FOLDER / name).read_bytes() for name in STUDIO_FILES)).hexdigest()[:16]
)
#: These reveal nothing about models, jobs and callers, so they need no key.
PUBLIC = PROBES | {
    "/",
    "/docs",
    "/openapi.json",
    *(f"/docs/{name}" for name in DOCS_FILES),
    *(f"{STUDIO_PATH}/{name}" for name in STUDIO_FILES),
}
#: Answered while Redis is unreachable, and therefore not rate-limited through Redis.
LIMITED_LOCALLY = PUBLIC | {"/health", "/info", "/metrics"}
