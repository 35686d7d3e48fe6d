"""What FastAPI leaves out of /openapi.json."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from api.problems import Problem
from shared.views import EXAMPLE


def install(app: FastAPI) -> None:
    describe = app.openapi
    _, problems = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")

    def openapi() -> dict[str, Any]:
        described = describe()
        schemas = described["components"]["schemas"]
        # Routes refer to it by name only: as a model of theirs it would be documented as plain JSON.
        schemas |= problems["$defs"]
        # As part of the model it would lose its nulls.
        schemas["JobView"]["examples"] = [EXAMPLE]
        return described

    app.openapi = openapi  # type: ignore[method-assign]
