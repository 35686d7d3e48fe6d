"""Paths that are served without a key."""

#: Orchestrators probe these and have no key.
PROBES = frozenset({"/health/live", "/health/ready"})
#: Vendored files of the page at /docs, with their media types.
DOCS_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
#: The same for every installation of this version, and so no secret.
PUBLIC = PROBES | {"/docs", "/openapi.json", *(f"/docs/{name}" for name in DOCS_FILES)}
#: Answered while Redis is unreachable, and therefore not counted there.
UNCOUNTED = PUBLIC | {"/health", "/info", "/metrics"}
