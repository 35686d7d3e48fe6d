"""Completes /openapi.json with what FastAPI leaves out."""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from api.edge.public_paths import LIMITED_LOCALLY, PUBLIC
from api.intake.openapi_bodies import json_content
from api.problems import STATUS, Problem, problem_responses
from api.protocols.mcp import openapi as mcp
from api.protocols.mcp.endpoint import PATH as MCP_PATH
from api.protocols.registration import ProtocolRoutes
from shared.jobs.requests import GenerationRequest
from shared.jobs.views import example_view

#: The ways to send an API key; one is enough.
SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic", "description": "The key is the password; the user name is ignored."},
}

#: Errors of the middleware, which any route may answer.
MIDDLEWARE_ERRORS = (
    "malformed-request",
    "forbidden",
    "unsupported-media-type",
    "request-timed-out",
    "payload-too-large",
    "misdirected-request",
    "headers-too-large",
    "rate-limited",
)
#: Those of routes that need a key, and of routes whose requests are counted in Redis.
KEY_ERROR, STORE_ERROR = "unauthorized", "store-unavailable"

#: Statuses of the errors that routes of other protocols may answer.
PROTOCOL_STATUSES = (400, 401, 402, 403, 404, 408, 413, 415, 421, 422, 429, 431, 500, 502, 503, 504, 507)


def openapi_tags(protocols: Sequence[ProtocolRoutes], *, with_mcp: bool) -> list[dict[str, str]]:
    tags = [{"name": routes.tag, "description": routes.description} for routes in protocols]
    return [*tags, {"name": mcp.TAG, "description": mcp.DESCRIPTION}] if with_mcp else tags


def install(app: FastAPI, protocols: Sequence[ProtocolRoutes], *, with_mcp: bool) -> None:
    tags = {routes.tag: routes for routes in protocols}
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        described = describe()
        if with_mcp:
            described["paths"][MCP_PATH] = mcp.describe_paths()
        schemas = described["components"]["schemas"]
        # Routes refer to these by name only: problems have their own media type, and routes read requests themselves.
        _, referenced = models_json_schema(
            [(Problem, "serialization"), (GenerationRequest, "validation")], ref_template="#/components/schemas/{model}"
        )
        schemas |= referenced["$defs"]
        # As an example of the model it would lose its nulls.
        schemas["JobView"]["examples"] = [example_view().model_dump(mode="json")]
        described["components"]["securitySchemes"] = SECURITY
        described["components"]["responses"] = {
            code: problem_responses(code)[STATUS[code]] for code in (*MIDDLEWARE_ERRORS, KEY_ERROR, STORE_ERROR)
        }
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for routes in protocols:
            described["components"]["responses"][f"{routes.protocol}-error"] = _error_response(routes)
        for path, operations in described["paths"].items():
            for operation in operations.values():
                if path not in PUBLIC:
                    operation["security"] = [{name: []} for name in SECURITY]
                if (tag := operation.get("tags", [""])[-1]) in tags:
                    _describe_errors(operation, tags[tag].protocol)
                    continue
                for code in _middleware_errors(path):
                    _add_error(operation["responses"], code)
        return described

    app.openapi = openapi  # type: ignore[method-assign]


def _middleware_errors(path: str) -> Iterator[str]:
    yield from MIDDLEWARE_ERRORS
    if path not in PUBLIC:
        yield KEY_ERROR
    if path not in LIMITED_LOCALLY:
        yield STORE_ERROR


def _add_error(responses: dict[str, Any], code: str) -> None:
    known = responses.setdefault(str(STATUS[code]), {"$ref": f"#/components/responses/{code}"})
    if "description" in known and code not in known["description"].split(", "):
        known["description"] += f", {code}"


def _error_response(routes: ProtocolRoutes) -> dict[str, Any]:
    content = json_content(routes.error_schema)
    return {"description": f"An error, as clients of {routes.tag} read it", "content": content}


def _describe_errors(operation: dict[str, Any], protocol: str) -> None:
    for status in PROTOCOL_STATUSES:
        operation["responses"][str(status)] = {"$ref": f"#/components/responses/{protocol}-error"}
