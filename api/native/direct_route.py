"""Routes that are asked for so often that FastAPI's resolution of dependencies would be a fifth of their time."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from api.edge.authentication import require_caller
from api.intake.idempotency import idempotency_scope
from api.services import services_of

#: The dependencies of a DirectRoute, by the names of its parameters: the same as FastAPI would resolve.
DEPENDENCIES: Mapping[str, Callable[[Request], Awaitable[Any]]] = {
    "services": services_of,
    "caller": require_caller,
    "idempotency": idempotency_scope,
}
#: What it gets besides.
GIVEN = frozenset({"http", "job_id"})


class DirectRoute(APIRoute):
    """Calls its endpoint with what GIVEN and DEPENDENCIES have.

    Endpoints that need more, or return no Response, are left to FastAPI. The signature describes both to clients.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        signature = inspect.signature(endpoint)
        names = signature.parameters.keys()
        self._dependencies = {name: DEPENDENCIES[name] for name in names if name in DEPENDENCIES}
        self.is_direct = names <= DEPENDENCIES.keys() | GIVEN and signature.return_annotation is Response
        if self.is_direct:
            self.app = self._call

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = Request(scope, receive, send)
        arguments: dict[str, Any] = {"http": http, **http.path_params}
        for name, resolve in self._dependencies.items():
            arguments[name] = await resolve(http)
        response: Response = await self.endpoint(**arguments)
        await response(scope, receive, send)
