"""Checks the API key of each request before anything else of it is read."""

import base64
import binascii
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.edge.public_paths import LIMITED_LOCALLY, PROBES, PUBLIC
from api.edge.rate_limit import REFUSAL_COST, RateLimit, client_network, request_cost
from api.edge.signed_links import LinkSecret
from api.problems import early_error_response
from shared.access import api_keys
from shared.access.api_keys import ApiKey
from shared.errors import Forbidden, RequestError, Unauthorized

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Caller:
    """Who sent a request, and what they may do."""

    owner: str
    """The owner of the jobs that this caller submits; empty where no keys are configured."""
    visible_owner: str | None
    """The owner whose jobs this caller may see; None for all jobs."""
    client_id: str
    """The key's name or the client's network, which limits are counted by."""
    may_use_high_priority: bool = True
    may_administer: bool = False
    """Whether they may load, unload and pin models."""
    may_write: bool = True


class Keyring:
    """The API keys as digests, so that the time of a comparison reveals nothing about them."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = [(sha256(key.secret.get_secret_value().encode()).digest(), key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, secret: bytes) -> ApiKey | None:
        digest, found = sha256(secret).digest(), None
        for known, key in self._keys:
            # No early exit: every key is compared.
            if hmac.compare_digest(known, digest):
                found = key
        return found


class Authentication:
    """Answers 401, 403 and 429 before the body is read, and puts the Caller into the request's state."""

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey], links: LinkSecret, limit: RateLimit) -> None:
        self._app = app
        self._keyring = Keyring(keys)
        self._links = links
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            scope.setdefault("state", {})["caller"] = await self._authenticate(scope)
        except RequestError as error:
            await early_error_response(error, Headers(scope=scope))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _authenticate(self, scope: Scope) -> Caller | None:
        """Identify the caller and charge the request. Raises RateLimited and all that `_identify` raises."""
        address = f"@{client_network(scope['client'][0])}" if scope.get("client") else "@"
        try:
            caller = await self._identify(scope, address)
        except (Unauthorized, Forbidden):
            # Many refusals lead to 429, but never lock out a caller with a key at the same address.
            self._limit.charge_locally(f"{address} refused", REFUSAL_COST)
            raise
        if scope["path"] in PROBES:
            return caller
        client_id = caller.client_id if caller else address
        if scope["path"] in LIMITED_LOCALLY:
            self._limit.charge_locally(client_id)
        else:
            await self._limit.charge(client_id, request_cost(Headers(scope=scope)))
        return caller

    async def _identify(self, scope: Scope, address: str) -> Caller | None:
        """None without a key on a public path. Raises Unauthorized, Forbidden and StoreUnavailable."""
        if not self._keyring:
            return _anyone(address)
        secret = _read_key(scope["headers"])
        key = self._keyring.find(secret) if secret else None
        if key is not None:
            return _caller_with(key, scope["method"], scope["path"])
        if scope["path"] in PUBLIC:
            return None
        if await self._links.authorizes(scope["method"], scope["path"], scope["query_string"]):
            # The signature authorizes this one image, whoever owns it.
            return Caller(owner="", visible_owner=None, client_id=address)
        raise Unauthorized


@lru_cache(maxsize=1024)
def _anyone(address: str) -> Caller:
    return Caller(owner="", visible_owner=None, client_id=address, may_administer=True)


def _caller_with(key: ApiKey, method: str, path: str) -> Caller:
    if path == "/metrics":
        if not key.scope.includes(api_keys.Scope.METRICS):
            raise Forbidden("/metrics needs an API key with the scope metrics or admin.")
    elif path not in PUBLIC and not key.scope.includes(api_keys.Scope.READ):
        raise Forbidden("This API key may only read /metrics.")
    elif method not in SAFE_METHODS and not key.scope.includes(api_keys.Scope.WRITE):
        raise Forbidden("This API key is read-only.")
    return Caller(
        owner=key.name,
        visible_owner=None if key.scope.includes(api_keys.Scope.ADMIN) else key.name,
        client_id=key.name,
        may_use_high_priority=key.scope.includes(api_keys.Scope.PRIORITY),
        may_administer=key.scope.includes(api_keys.Scope.ADMIN),
        may_write=key.scope.includes(api_keys.Scope.WRITE),
    )


def _read_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The API key in the headers. X-API-Key comes first, because Authorization may be meant for a proxy."""
    secret = None
    for name, value in headers:
        if name == b"x-api-key" and value.strip():
            return value.strip()
        if name == b"authorization" and secret is None:
            secret = _read_authorization(value)
    return secret


def _read_authorization(value: bytes) -> bytes | None:
    scheme, _, credentials = value.strip().partition(b" ")
    match scheme.lower():
        # Clients of other services say Token or Key where Bearer is meant.
        case b"bearer" | b"token" | b"key":
            return credentials.strip()
        case b"basic":
            try:
                user, _, password = base64.b64decode(credentials.strip(), validate=True).partition(b":")
            except binascii.Error:
                return None
            # Clients send http://KEY@host as a user without a password.
            return password or user
        case _:
            return None


async def charge(request: Request, units: int) -> None:
    """Charge units beyond those charged on arrival. Raises RateLimited and StoreUnavailable."""
    await request.app.state.services.rate_limit.charge(request.state.caller.client_id, units, in_progress=True)


# Asynchronous although it awaits nothing: FastAPI runs synchronous dependencies on a thread per request.
async def require_caller(request: Request) -> Caller:
    """Raises Unauthorized."""
    caller: Caller | None = request.state.caller
    if caller is None:
        raise Unauthorized
    return caller


CallerDep = Annotated[Caller, Depends(require_caller)]
