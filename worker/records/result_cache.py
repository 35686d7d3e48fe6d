"""The result cache: images of an earlier job with exactly the same request are reused."""

import hashlib
import json
from contextlib import suppress
from datetime import timedelta

from shared.errors import StoreUnavailable
from shared.jobs.job import Job
from shared.jobs.result_cache import ResultCacheIndex
from shared.jobs.states import State
from shared.redis.store import Store
from worker.jobs.batching import NON_IMAGE_FIELDS
from worker.records.redis_job_store import RedisJobStore

#: Lifetime of entries if retention keeps everything.
MAX_LIFETIME = timedelta(days=30)


class RedisResultCache:
    """Finds jobs of the same owner with the same request and model.

    If Redis does not answer, images are rendered anew.
    """

    def __init__(
        self, store: Store, index: ResultCacheIndex, job_store: RedisJobStore, fingerprint: str, lifetime: timedelta
    ) -> None:
        """`fingerprint` identifies the model (see Reproducible)."""
        self._store = store
        self._index = index
        self._job_store = job_store
        self._fingerprint = fingerprint
        self._lifetime_ms = int(lifetime.total_seconds() * 1000)

    def find(self, job: Job) -> Job | None:
        """Return a succeeded job with the same resolved request, seed included."""
        with suppress(StoreUnavailable):
            job_id = self._store.run(self._index.find(self._key(job)))
            cached = self._job_store.read(job_id) if job_id is not None else None
            if cached is not None and cached.state is State.SUCCEEDED and cached.owner == job.owner:
                return cached
        return None

    def add(self, job: Job) -> None:
        """Offer the images of a job for reuse, unless some were withheld or reused themselves."""
        if job.state is State.SUCCEEDED and job.reused_from is None and not any(image.flagged for image in job.images):
            with suppress(StoreUnavailable):
                self._store.run(self._index.put(self._key(job), job.id, self._lifetime_ms))

    def _key(self, job: Job) -> str:
        """Hash all that determines the bytes of the images, and their owner."""
        request = job.request.to_json(exclude={*NON_IMAGE_FIELDS} - {"output_format"})
        key = json.dumps([job.owner, job.backend, job.model, self._fingerprint, request], sort_keys=True)
        return hashlib.sha256(key.encode()).hexdigest()


def lifetime(*retention_days: int) -> timedelta:
    """Return how long both images and job records are certainly kept; 0 days keep them for ever."""
    return min((timedelta(days=days) for days in retention_days if days), default=MAX_LIFETIME)
