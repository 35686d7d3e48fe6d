"""Which job made the pictures that a request like it would get."""

from shared.keys import Keys
from shared.store import Operation


class Twins:
    """By what their pictures follow from; who asks makes sure that they are still there."""

    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)

    def remember(self, cause: str, job_id: str, lifetime_ms: int) -> Operation[str]:
        """The latest one counts."""
        return Operation("twin", [self._keys.twin(cause)], [job_id, lifetime_ms], str)

    def find(self, cause: str) -> Operation[str | None]:
        """Id of the job, which may be gone by now."""
        return Operation("twin", [self._keys.twin(cause)], [], lambda reply: reply or None)
