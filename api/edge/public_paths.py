"""Lists the paths that are served without an API key."""

#: Orchestrators probe these without a key.
PROBES = frozenset({"/health/live", "/health/ready"})
#: Vendored files of the page at /docs, with their media types.
DOCS_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
#: Identical in every installation of this version, and therefore no secret.
PUBLIC = PROBES | {"/docs", "/openapi.json", *(f"/docs/{name}" for name in DOCS_FILES)}
#: Answered while Redis is unreachable, and therefore not rate-limited through Redis.
LIMITED_LOCALLY = PUBLIC | {"/health", "/info", "/metrics"}
