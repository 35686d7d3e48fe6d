"""Exact repeats: images that were made once are given again."""

import hashlib
import json
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

from shared.errors import StoreUnavailable
from shared.jobs.job import Image, Job
from shared.jobs.result_cache import ResultCacheIndex
from shared.jobs.states import State
from shared.redis.store import Store
from worker.jobs.batching import NOT_OF_THE_IMAGE

#: Where nothing is ever cleared away.
LONGEST = timedelta(days=30)


class Reading(Protocol):
    def read(self, job_id: str) -> Job | None: ...


class RedisResultCache:
    """Jobs whose images can be given again: to the same owner, for the same request, from the same model.

    Nothing is lost where Redis does not answer: the images are then made anew.
    """

    def __init__(
        self, store: Store, index: ResultCacheIndex, job_store: Reading, fingerprint: str, lifetime: timedelta
    ) -> None:
        """`fingerprint` identifies the model (see Reproducible)."""
        self._store = store
        self._index = index
        self._job_store = job_store
        self._fingerprint = fingerprint
        self._lifetime_ms = int(lifetime.total_seconds() * 1000)

    def find(self, job: Job) -> Job | None:
        """One that has ended well, and whose resolved request was that of this job, its seed included."""
        with suppress(StoreUnavailable):
            job_id = self._store.run(self._index.find(self._cause(job)))
            cached = self._job_store.read(job_id) if job_id is not None else None
            if cached is not None and cached.state is State.SUCCEEDED and cached.owner == job.owner:
                return cached
        return None

    def add(self, job: Job) -> None:
        """Of images that were withheld, nothing is remembered."""
        if job.state is State.SUCCEEDED and job.reused_from is None and not any(map(_is_withheld, job.images)):
            with suppress(StoreUnavailable):
                self._store.run(self._index.put(self._cause(job), job.id, self._lifetime_ms))

    def _cause(self, job: Job) -> str:
        """All that the bytes of its images follow from, and who may have them."""
        asked = job.request.to_json(exclude={*NOT_OF_THE_IMAGE} - {"output_format"})
        told = json.dumps([job.owner, job.backend, job.model, self._fingerprint, asked], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()


def _is_withheld(image: Image) -> bool:
    return image.flagged


def lifetime(*retention_days: int) -> timedelta:
    """As long as both the images and the record of their job are certainly kept; 0 keeps them."""
    return min((timedelta(days=days) for days in retention_days if days), default=LONGEST)
