"""Recognises repeated requests, so that a retry returns its job instead of creating another."""

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from api.edge.authentication import Caller, require_caller
from api.field_errors import invalid_field
from shared.errors import AcceptanceUnconfirmed, StoreUnavailable
from shared.jobs.admission import IdempotencyKey, OnDuplicate
from shared.jobs.operations import Jobs
from shared.jobs.requests import GenerationRequest
from shared.redis.store import AsyncStore

KEY_PATTERN = r"[\x21-\x7e]{1,255}"
#: Lifetime of an Idempotency-Key.
KEY_MS = 24 * 3600 * 1000
#: How long a numbered retry finds its first attempt: longer than clients keep retrying.
RETRY_MS = 15 * 60 * 1000
#: How long a repeated request finds its job after an answer that the client may not have received.
UNCONFIRMED_MS = 2 * 60 * 1000
#: Limit of unconfirmed jobs in memory; the oldest are forgotten first.
MAX_UNCONFIRMED = 4096
RETRY_SECONDS = 0.5
#: The fields of a request in the first version.
_FIRST_FIELDS = frozenset(
    {"prompt", "negative_prompt", "backend", "width", "height", "num_inference_steps", "guidance_scale", "seed"}
    | {"image", "mask", "strength", "num_images", "bfl_model", "scheduler", "loras", "output_format"}
    | {"response_format", "label", "metadata", "priority", "deadline_seconds", "webhook_url", "webhook_events"}
    | {"webhook_inline_images"}
)
#: Those that came later, and their defaults.
_LATER_FIELDS = {
    name: field.default for name, field in GenerationRequest.model_fields.items() if name not in _FIRST_FIELDS
}


@dataclass(frozen=True)
class IdempotencyScope:
    """Caller, Idempotency-Key and number of the attempt, from which the key of a request is made."""

    caller: Caller
    key: str | None
    retry_count: str | None

    @property
    def asks_again(self) -> bool:
        """Whether the caller repeats a request by itself, and says so."""
        return self.retry_count is not None

    def key_for(self, request: GenerationRequest) -> IdempotencyKey:
        """The key that this request shares with its repetitions.

        - An Idempotency-Key counts for its owner, from any address. Without API keys there is one owner.
        - SDKs that retry without a key number their attempts. The first creates a job, the others return it.
        - Without either, an identical request of the same client returns the job only if its acceptance is unconfirmed.
        """
        request_hash = _hash(_canonical(request))
        if self.key is not None:
            name = _hash(f"key {self.caller.owner} {self.key}")
            return IdempotencyKey(name, request_hash, OnDuplicate.RETURN, KEY_MS)
        content = f"{self.caller.client_id} {request_hash}"
        if self.retry_count is None:
            name = _hash(f"unsure {content}")
            return IdempotencyKey(name, request_hash, OnDuplicate.RETURN_UNCONFIRMED, UNCONFIRMED_MS)
        on_duplicate = OnDuplicate.CREATE if self.retry_count == "0" else OnDuplicate.RETURN_UNLESS_FAILED
        return IdempotencyKey(_hash(f"retry {content}"), request_hash, on_duplicate, RETRY_MS)


async def idempotency_scope(
    request: Request,
    _: Annotated[
        str | None,
        Header(
            alias="idempotency-key",
            description="Requests with the same key and body within 24 hours get the same job",
            json_schema_extra={"pattern": f"^{KEY_PATTERN}$"},
        ),
    ] = None,
) -> IdempotencyScope:
    """Raises Unauthorized and InvalidRequest."""
    key = request.headers.get("idempotency-key")
    if key is not None and not re.fullmatch(KEY_PATTERN, key):
        raise invalid_field("/Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    return IdempotencyScope(await require_caller(request), key, request.headers.get("x-stainless-retry-count"))


IdempotencyDep = Annotated[IdempotencyScope, Depends(idempotency_scope)]


class UnconfirmedJobs:
    """Jobs that may have been created although Redis did not answer in time.

    As soon as Redis responds again, each is marked, and the next identical request returns it, whichever process it
    reaches. A Redis that was only slow marks it by itself (lua/jobs/unconfirmed.lua); this is for lost answers.
    """

    def __init__(self, store: AsyncStore, jobs: Jobs) -> None:
        self._store = store
        self._jobs = jobs
        self._unmarked: OrderedDict[str, tuple[IdempotencyKey, float]] = OrderedDict()
        self._marking: asyncio.Task[None] | None = None

    def add(self, key: IdempotencyKey, job_id: str) -> None:
        self._unmarked[job_id] = key, time.monotonic() + key.lifetime_ms / 1000
        if len(self._unmarked) > MAX_UNCONFIRMED:
            self._unmarked.popitem(last=False)
        if self._marking is None or self._marking.done():
            self._marking = asyncio.create_task(self._mark_all())

    async def settle(self, key: IdempotencyKey) -> None:
        """Mark the jobs of this key before its request is tried again. Raises AcceptanceUnconfirmed."""
        for job_id in [job_id for job_id, (unmarked, _) in self._unmarked.items() if unmarked.name == key.name]:
            try:
                await self._mark(job_id)
            except StoreUnavailable:
                raise AcceptanceUnconfirmed(job_id) from None

    async def _mark(self, job_id: str) -> None:
        key, expires = self._unmarked.get(job_id, (None, 0.0))
        if key is not None and time.monotonic() < expires:
            await self._store.run(self._jobs.mark_unconfirmed(key, job_id))
        self._unmarked.pop(job_id, None)

    async def _mark_all(self) -> None:
        while self._unmarked:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(StoreUnavailable):
                for job_id in list(self._unmarked):
                    await self._mark(job_id)


def _canonical(request: GenerationRequest) -> str:
    """The same text for both spellings of the model, and for requests that an earlier version hashed.

    Fields that are newer than the first version count only if they are set.
    """
    unset = {name for name, default in _LATER_FIELDS.items() if getattr(request, name) == default}
    if request.model is not None:
        request = request.model_copy(update={"bfl_model": request.model})
    return request.model_dump_json(exclude={"model", *unset})


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
