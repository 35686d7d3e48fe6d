"""Sessions of callers: what they chose and started earlier, for protocols whose calls refer to that."""

from dataclasses import dataclass

from shared.redis.keys import Keys
from shared.redis.store import Argument, Operation

#: Since the last change.
LIFETIME_MS = 30 * 24 * 3600 * 1000


@dataclass(frozen=True)
class CallerSession:
    model: str | None = None
    """The model of requests that name none."""
    job_id: str | None = None
    """The newest job."""


class CallerSessions:
    """Operations on sessions; callers are known by their key's name or their network."""

    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)

    def read(self, client_id: str) -> Operation[CallerSession]:
        return self._operation(client_id)

    def set_model(self, client_id: str, model: str | None) -> Operation[CallerSession]:
        return self._operation(client_id, "model", model or "")

    def set_job(self, client_id: str, job_id: str) -> Operation[CallerSession]:
        return self._operation(client_id, "job_id", job_id)

    def _operation(self, client_id: str, *changes: str) -> Operation[CallerSession]:
        args: list[Argument] = [LIFETIME_MS, *changes]
        return Operation("callers/session", [self._keys.caller_session(client_id)], args, _decode)


def _decode(reply: list[str]) -> CallerSession:
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    return CallerSession(fields.get("model"), fields.get("job_id"))
