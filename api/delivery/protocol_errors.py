"""Renders problems the way that the clients of each protocol read errors."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import PROBLEM_MEDIA_TYPE, FieldProblem, Problem


@dataclass(frozen=True)
class RenderedError:
    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to those of the problem."""


#: Errors of wrong requests, which other services answer 400 for.
_WRONG_REQUESTS = frozenset({"invalid-request", "invalid-image", "content-rejected", "idempotency-mismatch"})
#: Renders a problem; `headers` are those of the answer so far.
ErrorRenderer = Callable[[Problem, Mapping[str, str]], RenderedError]


class ProtocolErrors:
    """Replaces the problems that routes and middleware answer below the paths of a protocol."""

    def __init__(self, app: ASGIApp, renderers: Mapping[re.Pattern[str], ErrorRenderer]) -> None:
        """`renderers` by the paths that they are for; the first that matches counts."""
        self._app = app
        self._renderers = renderers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None
        body = bytearray()

        async def send_rendered(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    for part in self._render(scope, start, bytes(body)):
                        await send(part)

        await self._app(scope, receive, send_rendered)

    def _render(self, scope: Scope, start: Message, body: bytes) -> list[Message]:
        problem, state = Problem.model_validate_json(body), scope.setdefault("state", {})
        # For the access log: some clients show their users no more than the status.
        state["reason"] = problem.detail
        renderer = self._renderer(scope)
        if renderer is None:
            return [start, {"type": "http.response.body", "body": body}]
        headers = MutableHeaders(raw=list(start["headers"]))
        rendered = renderer(_renamed(problem, state.get("field_names", {})), headers)
        headers.update(rendered.headers)
        body = json.dumps(rendered.body).encode()
        headers["content-type"], headers["content-length"] = "application/json", str(len(body))
        answer = {"type": "http.response.start", "status": rendered.status, "headers": headers.raw}
        return [answer, {"type": "http.response.body", "body": body}]

    def _renderer(self, scope: Scope) -> ErrorRenderer | None:
        # Not by the function of the route: middleware refuses requests before they have one.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return next((renderer for pattern, renderer in self._renderers.items() if pattern.match(path)), None)


def status_elsewhere(problem: Problem) -> int:
    """The status that most other services would have."""
    return HTTPStatus.BAD_REQUEST if problem.code in _WRONG_REQUESTS else problem.status


def _renamed(problem: Problem, names: Mapping[str, str]) -> Problem:
    """With the caller's names for our fields."""
    if not (names and problem.errors):
        return problem
    ours = re.compile(rf"\b({'|'.join(names)})\b")

    def rename(text: str) -> str:
        return ours.sub(lambda match: names[match[1]], text)

    errors = [FieldProblem(pointer=rename(error.pointer), detail=rename(error.detail)) for error in problem.errors]
    return problem.model_copy(update={"detail": rename(problem.detail), "errors": errors})


def _is_problem(message: Message) -> bool:
    return any(
        name == b"content-type" and value.startswith(PROBLEM_MEDIA_TYPE.encode())
        for name, value in message.get("headers", ())
    )
