"""What FastAPI leaves out of /openapi.json."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from api.problems import Problem
from shared.schemas import GenerationRequest
from shared.views import EXAMPLE


def install(app: FastAPI) -> None:
    describe = app.openapi
    _, referred = models_json_schema(
        [(Problem, "serialization"), (GenerationRequest, "validation")], ref_template="#/components/schemas/{model}"
    )

    def openapi() -> dict[str, Any]:
        described = describe()
        schemas = described["components"]["schemas"]
        # Routes refer to them by name only: problems are no plain JSON, and requests are read by the routes themselves.
        schemas |= referred["$defs"]
        # As part of the model it would lose its nulls.
        schemas["JobView"]["examples"] = [EXAMPLE]
        return described

    app.openapi = openapi  # type: ignore[method-assign]
