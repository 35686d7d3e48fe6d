"""The result cache: images of an earlier job with exactly the same request are reused."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class RedisResultCache:
    """Finds jobs of the same owner with the same request and model. `fingerprint`: see Reproducible.

    If Redis does not answer, images are rendered anew.
    """

    store: Store
    index: ResultCacheIndex
    job_store: RedisJobStore
    lifetime: timedelta

    def find(self, job: Job, fingerprint: str) -> Job | None:
        """Return a succeeded job with the same resolved request, seed included."""
        with suppress(StoreUnavailable):
            job_id = self.store.run(self.index.find(self._key(job, fingerprint)))
            cached = self.job_store.read(job_id) if job_id is not None else None
            if cached is not None and cached.state is State.SUCCEEDED:
                return cached
        return None

    def add(self, job: Job, fingerprint: str) -> None:
        """Offer the images that were rendered for a job for reuse, unless some were withheld."""
        if job.state is State.SUCCEEDED and not any(image.flagged for image in job.images):
            with suppress(StoreUnavailable):
                lifetime_ms = int(self.lifetime.total_seconds() * 1000)
                self.store.run(self.index.put(self._key(job, fingerprint), job.id, lifetime_ms))

    def _key(self, job: Job, fingerprint: str) -> str:
        """Hash all that determines the bytes of the images, and their owner."""
        request = job.request.to_json(exclude={*NON_IMAGE_FIELDS} - {"output_format"})
        key = json.dumps([job.owner, job.backend, job.model, fingerprint, request], sort_keys=True)
        return hashlib.sha256(key.encode()).hexdigest()


def lifetime(*retention_days: int) -> timedelta:
    """Return how long both images and job records are certainly kept; 0 days keep them for ever."""
    return min((timedelta(days=days) for days in retention_days if days), default=MAX_LIFETIME)
