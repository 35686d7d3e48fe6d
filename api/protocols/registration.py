"""The protocols of other services that this one speaks: their routes, paths and errors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from api.delivery.protocol_errors import ErrorRenderer
from api.protocols import models
from api.protocols.openai import errors as openai_errors
from api.protocols.openai import routes as openai_routes
from shared.jobs.types import ApiProtocol


@dataclass(frozen=True)
class ProtocolRoutes:
    """How one protocol is served."""

    protocol: ApiProtocol
    tag: str
    description: str
    routers: tuple[APIRouter, ...]
    prefixes: tuple[str, ...]
    """All its paths begin with one of these; the longest that fits decides who renders an error."""
    render_error: ErrorRenderer
    error_schema: Mapping[str, Any]
    """JSON Schema of its errors."""


_ALL = (
    ProtocolRoutes(
        protocol=ApiProtocol.OPENAI,
        tag="OpenAI",
        description="Images of the OpenAI API, for clients that take a base URL: `http://host:7860/v1`.",
        routers=(openai_routes.router, models.router),
        prefixes=("/v1",),
        render_error=openai_errors.render_error,
        error_schema=openai_errors.SCHEMA,
    ),
)


def enabled_protocols(protocols: Iterable[ApiProtocol]) -> tuple[ProtocolRoutes, ...]:
    """The protocols among these that are served."""
    wanted = set(protocols)
    return tuple(routes for routes in _ALL if routes.protocol in wanted)


def error_renderers(protocols: Iterable[ProtocolRoutes]) -> dict[str, ErrorRenderer]:
    """By the beginning of the path."""
    return {prefix: routes.render_error for routes in protocols for prefix in routes.prefixes}
