"""How request bodies are read: bounded, and JSON without the extensions that Python adds to it."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import problem_response
from shared.errors import LengthRequired, PayloadTooLarge, UnsupportedMediaType

#: The largest JSON request that makes sense takes 4000 characters twice, 2 KB of metadata and a few numbers.
MAX_JSON_BYTES = 128 * 1024


class BodyLimit:
    """Turns away bodies that are too large, or of a size not told, before they are read."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(Headers(scope=scope)) if scope["type"] == "http" else None
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await problem_response(refused.code, refused.detail, headers={"Connection": "close"})(scope, receive, send)

    def _refused(self, headers: Headers) -> LengthRequired | PayloadTooLarge | None:
        if "transfer-encoding" in headers:
            return LengthRequired()
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return LengthRequired()
        if len(length) > 15 or int(length) > self._max_bytes:
            return PayloadTooLarge(f"The body may take at most {self._max_bytes} bytes.")
        return None


class StrictRequest(Request):
    async def json(self) -> Any:
        """Refuses NaN, Infinity, lone surrogates and deep nesting, which the standard library lets through."""
        body = await self.body()
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None


class JsonRoute(APIRoute):
    """A route whose body is JSON, and says so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            # A page in a browser can post text/plain anywhere; only JSON makes it ask for permission first (CORS).
            media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if request.method == "POST" and media_type != "application/json":
                raise UnsupportedMediaType
            return await handle(StrictRequest(request.scope, request.receive))

        return strict
