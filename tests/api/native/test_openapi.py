"""/openapi.json is complete and correct."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from api.problems import STATUS, Problem
from shared import errors
from shared.errors import ConfigurationError, ImagegenError
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import WebhookEvent
from shared.jobs.views import JobView
from tests.stack import Api

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


@pytest.fixture(scope="module")
def schema(api: Api) -> dict[str, Any]:
    openapi: dict[str, Any] = api.get("/openapi.json").json()
    return openapi


#: Generated clients name their methods and types after these: they never change, whatever functions are called.
OPERATION_IDS = {
    "POST /api/txt2img": "textToImage",
    "POST /api/img2img": "imageToImage",
    "POST /api/upscale": "upscaleImage",
    "POST /api/jobs": "createJob",
    "GET /api/jobs": "listJobs",
    "GET /api/jobs/{job_id}": "getJob",
    "DELETE /api/jobs/{job_id}": "cancelJob",
    "PUT /api/jobs/{job_id}/pin": "pinJob",
    "DELETE /api/jobs/{job_id}/pin": "unpinJob",
    "GET /api/jobs/{job_id}/events": "streamJobEvents",
    "GET /api/jobs/{job_id}/images/{index}": "getImage",
    "GET /api/jobs/{job_id}/request": "getJobRequest",
    "GET /api/images.zip": "getImages",
    "GET /api/events": "streamEvents",
    "GET /api/key": "getKey",
    "GET /api/webhooks": "listWebhooks",
    "POST /api/webhooks/{webhook_id}/redeliver": "redeliverWebhook",
    "GET /api/backends": "listBackends",
    "GET /api/models": "listModels",
    "GET /api/models/{name}": "getModel",
    "POST /api/models/{name}/load": "loadModel",
    "POST /api/models/{name}/unload": "unloadModel",
    "PUT /api/models/{name}/pin": "pinModel",
    "DELETE /api/models/{name}/pin": "unpinModel",
    "GET /health": "getHealth",
    "GET /health/live": "getLiveness",
    "GET /health/ready": "getReadiness",
    "GET /info": "getInfo",
    "GET /metrics": "getMetrics",
}
SCHEMAS = """
Backend BackendListView BackendStatus BackendView Delivery DeliveryState DeviceMemory Download FieldProblem
GenerationRequest HealthView ImageView InfoView JobError JobListView JobView JsonValue KeptWebhookView KeyView Lora
OutputFormat OutputsView Priority Problem Progress ProviderView RepeatableRequestView ResponseFormat ServiceStatus State
Timings
WebhookEvent WebhookListView WebhookMessage WebhookView WorkerRecord WorkerState
"""


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The native ones: each other protocol has a tag that OpenAPI describes."""
    protocols = {tag["name"] for tag in schema["tags"]}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if not protocols & set(operation["tags"]):
                yield f"{method.upper()} {path}", operation


def test_schemas_keep_their_names(schema: dict[str, Any]) -> None:
    assert set(schema["components"]["schemas"]) >= set(SCHEMAS.split()), "renamed a class? give its schema the old name"


def test_webhooks_keep_their_ids(schema: dict[str, Any]) -> None:
    ids = {operation["operationId"] for methods in schema["webhooks"].values() for operation in methods.values()}

    assert ids == {f"job{event.capitalize()}" for event in WebhookEvent}


def test_every_schema_reference_resolves(schema: dict[str, Any]) -> None:
    references = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(schema)))

    assert references == set(schema["components"]["schemas"])


def test_every_operation_is_described_and_keeps_its_id(schema: dict[str, Any]) -> None:
    described = dict(operations(schema))

    assert {name: operation["operationId"] for name, operation in described.items()} == OPERATION_IDS
    assert all(operation["description"] for operation in described.values())


def test_every_path_with_get_answers_head_too_except_event_streams(api: Api, schema: dict[str, Any]) -> None:
    for path, methods in schema["paths"].items():
        if "get" in methods:
            is_stream = "text/event-stream" in str(methods["get"])
            assert (api.http.head(api.url + path, timeout=5).status_code == 405) == is_stream, path
        assert "head" not in methods


def test_every_documented_error_is_a_problem(schema: dict[str, Any]) -> None:
    shared = schema["components"]["responses"]
    for name, operation in operations(schema):
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and (name, status) not in PLAIN:
                documented = shared[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
                assert documented["content"] == PROBLEM, f"{name} {status}"
    assert "HTTPValidationError" not in str(schema)
    assert set(schema["components"]["schemas"]["Problem"]["required"]) <= set(Problem.model_fields)


#: This answer has no problem as its body.
PLAIN = {("GET /health/ready", "503")}


def test_errors_of_middleware_are_documented_for_every_operation(schema: dict[str, Any]) -> None:
    statuses = {"400", "403", "408", "413", "415", "421", "429", "431"}

    assert all(statuses <= set(operation["responses"]) for _, operation in operations(schema))
    shared = {name for name in schema["components"]["responses"] if not name.endswith("-error")}
    assert {str(STATUS[code]) for code in shared} == statuses | {"401", "503"}
    without_key = {name for name, operation in operations(schema) if "401" not in operation["responses"]}
    assert without_key == {"GET /health/live", "GET /health/ready"}


def test_operations_that_need_redis_document_503(schema: dict[str, Any]) -> None:
    without = {name for name, operation in operations(schema) if "503" not in operation["responses"]}

    assert without == {"GET /health", "GET /health/live", "GET /metrics"}


def test_the_example_of_a_job_is_valid(schema: dict[str, Any]) -> None:
    example = schema["components"]["schemas"]["JobView"]["examples"][0]

    assert JobView.model_validate(example).model_dump(mode="json") == example


def test_the_examples_of_requests_are_accepted(api: Api, schema: dict[str, Any]) -> None:
    for path in ("/api/txt2img", "/api/jobs"):
        examples = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
        for example in examples.values():
            assert api.post("/api/jobs", example["value"]).status_code == 202


def test_the_form_has_the_fields_of_a_request(schema: dict[str, Any]) -> None:
    content = schema["paths"]["/api/img2img"]["post"]["requestBody"]["content"]

    form = content["multipart/form-data"]["schema"]
    assert set(form["properties"]) == set(GenerationRequest.model_fields)
    assert form["properties"]["mask"]["format"] == "binary"
    # Otherwise the page at /docs fills in values of its own.
    shown = {
        name: field["examples"] for name, field in form["properties"].items() if name not in ("image", "mask", "prompt")
    }
    assert all(examples in ([""], [[]]) for examples in shown.values())
    assert form["required"] == ["image", "prompt"]


def test_every_field_of_a_request_has_a_description(schema: dict[str, Any]) -> None:
    fields = schema["components"]["schemas"]["GenerationRequest"]["properties"]

    plain = {"output_format", "priority"}
    assert {name for name, field in fields.items() if "description" not in field} == plain


def test_the_docs_page_loads_openapi_json(api: Api) -> None:
    answer = api.get("/docs")

    assert answer.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in answer.text


def leaves(error: type[ImagegenError]) -> Iterator[type[ImagegenError]]:
    for child in error.__subclasses__():
        yield child
        yield from leaves(child)


def test_every_error_has_a_code_with_a_status() -> None:
    bases = {errors.RequestError, errors.JobFailure, ConfigurationError}
    codes = {error.code for error in leaves(ImagegenError) if error not in bases}

    assert codes == set(STATUS)
