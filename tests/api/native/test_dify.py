"""The tool that Dify imports matches the API, and works the way Dify calls it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.api.clients import ALICE
from tests.stack import Api, Stack
from tools.dify_tool import FIELDS, SERVER, render

FILE = Path(__file__).parents[3] / "compose" / "dify" / "imagegen.openapi.json"
#: Dify converts any other type to a string.
TYPES = {"string": str, "integer": int, "number": float, "boolean": bool}


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(FILE.read_text())
    return read


def call_tool(stack: Stack, tool: dict[str, Any], path: str, method: str, **arguments: Any) -> requests.Response:
    """Call the tool as Dify does: fields with a default are always sent, others only if the model gives them."""
    operation = tool["paths"][path][method]
    headers, body = {"X-API-Key": ALICE, "Host": SERVER.removeprefix("http://")}, None
    for parameter in operation["parameters"]:
        value = arguments.get(parameter["name"], parameter["schema"].get("default", ""))
        if parameter["in"] == "header":
            headers[parameter["name"]] = str(value)
        else:
            path = path.replace(f"{{{parameter['name']}}}", str(value))
    if "requestBody" in operation:
        fields = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
        defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
        given = {name: TYPES[fields[name]["type"]](value) for name, value in arguments.items() if name in fields}
        body = json.dumps(defaults | given)
        headers["Content-Type"] = "application/json"
    return requests.request(method, stack.api.url + path, data=body, headers=headers, timeout=60)


def test_the_tool_matches_the_api(api: Api) -> None:
    openapi = api.get("/openapi.json").json()

    assert FILE.read_text() == render(openapi), "regenerate it: see tools/dify_tool.py"
    assert set(FIELDS) <= set(openapi["components"]["schemas"]["GenerationRequest"]["properties"])


def test_dify_can_parse_the_tool(tool: dict[str, Any]) -> None:
    assert [server["url"] for server in tool["servers"]] == [SERVER]
    for path, operations in tool["paths"].items():
        for operation in operations.values():
            assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", operation["operationId"])
            assert operation["description"]
            named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
    fields = tool["paths"]["/api/txt2img"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    for name, field in fields.items():
        assert field["type"] in TYPES, name
        assert isinstance(field.get("default", TYPES[field["type"]]()), TYPES[field["type"]]), name


def test_dify_gets_an_image_link_that_needs_no_key(keyed: Stack, tool: dict[str, Any]) -> None:
    # Models tend to write numbers as strings.
    answer = call_tool(
        keyed, tool, "/api/txt2img", "post", prompt="a penguin", width="64", seed="7", guidance_scale="1.5"
    )

    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert (job["state"], job["request"]["seed"]) == ("succeeded", 7)
    url = job["images"][0]["url"]
    assert url.startswith(SERVER)
    assert requests.get(url.replace(SERVER, keyed.api.url), timeout=10).content[:4] == b"\x89PNG"
    assert answer.request.headers["Prefer"] == "wait=50"


def test_dify_can_look_at_a_job_later(keyed: Stack, tool: dict[str, Any]) -> None:
    job = call_tool(keyed, tool, "/api/txt2img", "post", prompt="a penguin", Prefer="wait=0")

    later = call_tool(keyed, tool, "/api/jobs/{job_id}", "get", job_id=job.json()["id"])

    # It may be done before anybody waits for it.
    assert job.status_code in (200, 202)
    assert later.json()["id"] == job.json()["id"]
