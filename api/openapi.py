"""Completes /openapi.json with what FastAPI leaves out."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from api.edge.public_paths import PUBLIC
from api.problems import STATUS, Problem, problem_responses
from shared.jobs.requests import GenerationRequest
from shared.jobs.views import EXAMPLE

#: The three ways to send an API key; one is enough.
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


def install(app: FastAPI) -> None:
    describe = app.openapi
    _, referenced = models_json_schema(
        [(Problem, "serialization"), (GenerationRequest, "validation")], ref_template="#/components/schemas/{model}"
    )

    def openapi() -> dict[str, Any]:
        described = describe()
        schemas = described["components"]["schemas"]
        # Routes refer to these by name only: problems have their own media type, and routes read requests themselves.
        schemas |= referenced["$defs"]
        # As an example of the model it would lose its nulls.
        schemas["JobView"]["examples"] = [EXAMPLE]
        described["components"]["securitySchemes"] = SECURITY
        described["components"]["responses"] = {
            code: problem_responses(code)[STATUS[code]] for code in MIDDLEWARE_ERRORS
        }
        for path, operations in described["paths"].items():
            for operation in operations.values():
                if path not in PUBLIC:
                    operation["security"] = [{name: []} for name in SECURITY]
                for code in MIDDLEWARE_ERRORS:
                    operation["responses"].setdefault(str(STATUS[code]), {"$ref": f"#/components/responses/{code}"})
        return described

    app.openapi = openapi  # type: ignore[method-assign]
