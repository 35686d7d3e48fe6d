"""Routes that are asked for so often that FastAPI's resolution of dependencies would be a fifth of their time."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from api.edge.authentication import require_caller
from api.intake.idempotency import idempotency_scope
from api.services import services_of

#: What a parameter of this name gets in a DirectRoute: the same as FastAPI would give it.
SOURCES: Mapping[str, Callable[[Request], Any]] = {
    "http": lambda http: http,
    "services": services_of,
    "caller": require_caller,
    "idempotency": idempotency_scope,
    "job_id": lambda http: http.path_params["job_id"],
}


class DirectRoute(APIRoute):
    """Calls its endpoint with what SOURCES has.

    Endpoints that need more, or return no Response, are left to FastAPI. The signature describes both to clients.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        signature = inspect.signature(endpoint)
        self.is_direct = signature.parameters.keys() <= SOURCES.keys() and signature.return_annotation is Response
        if self.is_direct:
            self._sources = {name: SOURCES[name] for name in signature.parameters}
            self.app = self._call

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = Request(scope, receive, send)
        response: Response = await self.endpoint(**{name: source(http) for name, source in self._sources.items()})
        await response(scope, receive, send)
