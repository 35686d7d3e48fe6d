"""The protocols of other services that this one speaks: their routes, paths and errors."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute

from api.delivery.protocol_errors import ErrorRenderer
from api.protocols import models
from api.protocols.a1111 import errors as a1111_errors
from api.protocols.a1111 import extras as a1111_extras
from api.protocols.a1111 import lists as a1111_lists
from api.protocols.a1111 import routes as a1111_routes
from api.protocols.fal import errors as fal_errors
from api.protocols.fal import routes as fal_routes
from api.protocols.huggingface import errors as huggingface_errors
from api.protocols.huggingface import routes as huggingface_routes
from api.protocols.openai import errors as openai_errors
from api.protocols.openai import routes as openai_routes
from api.protocols.replicate import errors as replicate_errors
from api.protocols.replicate import files as replicate_files
from api.protocols.replicate import models as replicate_models
from api.protocols.replicate import routes as replicate_routes
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


ALL = (
    ProtocolRoutes(
        protocol=ApiProtocol.REPLICATE,
        tag="Replicate",
        description="Replicate's API, for its clients: `REPLICATE_BASE_URL=http://host:7860`.",
        # The routes with fixed ends come before the list, which takes every path below /v1/models.
        routers=(replicate_routes.router, replicate_files.router, replicate_models.router, models.router),
        prefixes=("/v1/predictions", "/v1/files", "/v1/webhooks"),
        render_error=replicate_errors.render_error,
        error_schema=replicate_errors.SCHEMA,
    ),
    ProtocolRoutes(
        protocol=ApiProtocol.OPENAI,
        tag="OpenAI",
        description="Images of the OpenAI API, for clients that take a base URL: `http://host:7860/v1`.",
        routers=(openai_routes.router, models.router),
        prefixes=("/v1", "/images"),
        render_error=openai_errors.render_error,
        error_schema=openai_errors.SCHEMA,
    ),
    ProtocolRoutes(
        protocol=ApiProtocol.A1111,
        tag="A1111",
        description="The API of AUTOMATIC1111's Stable Diffusion web UI, for clients that take `http://host:7860`.",
        routers=(a1111_routes.router, a1111_extras.router, a1111_lists.router),
        prefixes=("/sdapi",),
        render_error=a1111_errors.render_error,
        error_schema=a1111_errors.SCHEMA,
    ),
    ProtocolRoutes(
        protocol=ApiProtocol.FAL,
        tag="fal",
        description="fal's queue, for its clients behind TLS: `FAL_QUEUE_RUN_HOST=host/fal FAL_RUN_HOST=host/fal/run`.",
        routers=(fal_routes.router,),
        prefixes=("/fal",),
        render_error=fal_errors.render_error,
        error_schema=fal_errors.SCHEMA,
    ),
    ProtocolRoutes(
        protocol=ApiProtocol.HUGGINGFACE,
        tag="Hugging Face",
        description='Hugging Face\'s inference API, for `InferenceClient(model="http://host:7860/models/NAME")`.',
        routers=(huggingface_routes.router,),
        prefixes=("/models",),
        render_error=huggingface_errors.render_error,
        error_schema=huggingface_errors.SCHEMA,
    ),
)


def enabled_protocols(protocols: Iterable[ApiProtocol]) -> tuple[ProtocolRoutes, ...]:
    """The protocols among these that are served."""
    wanted = set(protocols)
    return tuple(routes for routes in ALL if routes.protocol in wanted)


def error_renderers(protocols: Sequence[ProtocolRoutes]) -> dict[re.Pattern[str], ErrorRenderer]:
    """By the paths of the routes, in their order; of two protocols that share one, the last has it. Then by prefix."""
    renderers = {
        route.path_regex: routes.render_error
        for routes in protocols
        for router in routes.routers
        for route in router.routes
        if isinstance(route, APIRoute)
    }
    prefixes = {prefix: routes.render_error for routes in protocols for prefix in routes.prefixes}
    longest_first = sorted(prefixes.items(), key=lambda entry: -len(entry[0]))
    return renderers | {re.compile(rf"{re.escape(prefix)}(/|$)"): renderer for prefix, renderer in longest_first}
