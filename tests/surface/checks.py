"""Checks that schemathesis applies to every answer in addition to /openapi.json; it loads this file itself."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import schemathesis
from schemathesis import CheckContext, Response
from schemathesis.generation.case import Case
from schemathesis.schemas import BaseSchema

PROBLEM = "application/problem+json"
#: Their errors have their own shapes, which /openapi.json describes.
OTHER_PROTOCOLS = re.compile(os.environ["OTHER_PATHS"])
#: Shorter texts occur in answers by chance.
MIN_ECHO_LENGTH = 6

#: By address.
_descriptions: dict[str | None, str] = {}


@schemathesis.check
def every_error_is_a_problem(_: CheckContext, answer: Response, case: Case[Any]) -> None:
    if answer.status_code < 400 or case.method == "HEAD" or case.path == "/health/ready":
        return
    if case.path == "/mcp" and answer.headers["content-type"] == ["application/json"]:
        # The SDK explains every form that a message may have.
        assert answer.json()["error"]["message"]
        return
    assert len(answer.content) < 2048
    if OTHER_PROTOCOLS.match(case.path):
        assert answer.headers["content-type"] == ["application/json"]
        return
    assert answer.headers["content-type"] == [PROBLEM]
    problem = answer.json()
    assert problem["status"] == answer.status_code


@schemathesis.check
def no_server_error_except_unavailable_backends(_: CheckContext, answer: Response, case: Case[Any]) -> None:
    if answer.status_code >= 500:
        assert "backend-unavailable" in answer.text


@schemathesis.check
def errors_echo_nothing(_: CheckContext, answer: Response, case: Case[Any]) -> None:
    """No error contains a text of the request, unless the service itself uses that text."""
    if answer.status_code < 400:
        return
    for container in (case.body, case.query, case.path_parameters, dict(case.headers or {})):
        found = {text for text in _texts(container) if text in answer.text}
        assert not {text for text in found if text not in _own_texts(case.operation.schema)}


def _own_texts(schema: BaseSchema) -> str:
    """All texts that the service itself uses. Writing them takes longer than a request does."""
    if schema.location not in _descriptions:
        _descriptions[schema.location] = f"{PROBLEM} {json.dumps(schema.raw_schema)}"
    return _descriptions[schema.location]


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str() if len(value) >= MIN_ECHO_LENGTH and not re.fullmatch(r"[\d.]+", value):
            yield value
        case dict():
            for name, inner in value.items():
                yield from _texts(name)
                yield from _texts(inner)
        case list():
            for inner in value:
                yield from _texts(inner)
