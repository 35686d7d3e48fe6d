"""Lists the paths that are served without an API key."""

from hashlib import sha256
from pathlib import Path

#: Orchestrators probe these without a key.
PROBES = frozenset({"/health/live", "/health/ready"})
#: Vendored files of the page at /docs, with their media types.
DOCS_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
#: The files of the studio.
STUDIO_FOLDER = Path(__file__).parents[1] / "studio" / "static"
_STUDIO_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
#: Those that it serves, with their media types.
STUDIO_FILES = {
    path.relative_to(STUDIO_FOLDER).as_posix(): _STUDIO_TYPES[path.suffix]
    for path in sorted(STUDIO_FOLDER.rglob("*"))
    if path.suffix in _STUDIO_TYPES
}
#: Where they are. The address changes with any of them, so that browsers keep them without asking again.
STUDIO_PATH = (
    "/studio/" + sha256(b"".join((STUDIO_FOLDER / name).read_bytes() for name in STUDIO_FILES)).hexdigest()[:16]
)
#: They tell nothing of models, jobs and callers, and are therefore no secret.
PUBLIC = PROBES | {
    "/",
    "/docs",
    "/openapi.json",
    *(f"/docs/{name}" for name in DOCS_FILES),
    *(f"{STUDIO_PATH}/{name}" for name in STUDIO_FILES),
}
#: Answered while Redis is unreachable, and therefore not rate-limited through Redis.
LIMITED_LOCALLY = PUBLIC | {"/health", "/info", "/metrics"}
