"""Describes the endpoint of the Model Context Protocol in OpenAPI: FastAPI does not know its route."""

from typing import Any

from api.intake.openapi_bodies import TEXT, json_content, object_schema, request_body
from api.problems import problem_responses

TAG = "MCP"
DESCRIPTION = (
    "The Model Context Protocol for agents: streamable HTTP, stateless, versions from 2024-11-05 to 2026-07-28. "
    "Its tools make and edit images; `tools/list` describes them. See docs/mcp.md."
)
_ERRORS = ("unauthorized", "unsupported-media-type", "store-unavailable")
_MESSAGE = object_schema(
    {
        "jsonrpc": {"const": "2.0"},
        "id": {
            "type": ["string", "integer"],
            "description": "Without it, the message is a notification, which is answered 202",
        },
        "method": {**TEXT, "examples": ["initialize", "server/discover", "tools/list", "tools/call"]},
        "params": {"type": "object"},
    },
    ["jsonrpc", "method"],
    title="JSON-RPC message",
)
_ANSWER = object_schema(
    {
        "jsonrpc": {"const": "2.0"},
        "id": {"type": ["string", "integer", "null"]},
        "result": {"type": "object"},
        "error": object_schema({"code": {"type": "integer"}, "message": TEXT}),
    },
    ["jsonrpc", "id"],
    title="JSON-RPC answer",
)
_CALL = {
    "summary": "Call a tool",
    "value": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "generate_image", "arguments": {"prompt": "a red heart on a blue background"}},
    },
}


def describe_paths() -> dict[str, Any]:
    """The operations of its path, by method."""
    answer, events = json_content(_ANSWER), {"text/event-stream": dict[str, Any]()}
    errors = {str(status): described for status, described in problem_responses(*_ERRORS).items()}
    refused = {"description": "The message is malformed", "content": answer}
    post = {
        "operationId": "mcpMessage",
        "summary": "Send a message",
        "description": "Answers a request with its result, or with a stream of progress that ends in it.",
        **request_body(json_content(_MESSAGE, examples={"call": _CALL})),
        "responses": {
            "200": {"description": "The answer", "content": {**answer, **events}},
            "202": {"description": "A notification was received"},
            **dict.fromkeys(("400", "404", "406"), refused),
            **errors,
        },
    }
    return {"post": {"tags": [TAG], **post}}
