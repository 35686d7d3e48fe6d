"""Which job made the images that a request like it would get."""

from shared.redis.keys import Keys
from shared.redis.store import Operation


class ResultCacheIndex:
    """By what their images follow from; who asks makes sure that they are still there."""

    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)

    def remember(self, cause: str, job_id: str, lifetime_ms: int) -> Operation[str]:
        """The latest one counts."""
        return Operation("limits/result_cache", [self._keys.cached_result(cause)], [job_id, lifetime_ms], str)

    def find(self, cause: str) -> Operation[str | None]:
        """Id of the job, which may be gone by now."""
        return Operation("limits/result_cache", [self._keys.cached_result(cause)], [], lambda reply: reply or None)
