"""Index of the result cache: which job made the images that an identical request would get."""

from shared.redis.keys import Keys
from shared.redis.store import Operation


class ResultCacheIndex:
    """By fingerprint of everything that determines the images; the caller checks that they still exist."""

    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)

    def put(self, fingerprint: str, job_id: str, lifetime_ms: int) -> Operation[bool]:
        """Replaces an earlier entry."""
        keys = [self._keys.cached_result(fingerprint)]
        return Operation("commands/run", keys, ["SET", job_id, "PX", lifetime_ms], bool)

    def find(self, fingerprint: str) -> Operation[str | None]:
        """Id of the job, which may have been deleted since."""
        keys = [self._keys.cached_result(fingerprint)]
        return Operation("commands/run", keys, ["GET"], lambda reply: reply)
