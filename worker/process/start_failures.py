"""A worker that cannot start publishes the reason and backs off before it ends."""

import re
import time
from collections.abc import Callable
from contextlib import closing, suppress

from shared.access.secrets import Secrets
from shared.errors import StoreUnavailable
from shared.redis.store import Store, connect
from shared.settings.worker import WorkerSettings
from shared.workers.records import Workers

FIRST_BACKOFF_SECONDS = 10.0
MAX_REASON_LENGTH = 500
#: At least two parts: a single /word is as often prose.
_PATH = re.compile(r"(?<![\w./:~-])/[^\s'\",:;()\[\]]+/([^\s'\",:;()\[\]/]*)")


def report_and_back_off(settings: WorkerSettings, reason: str, check_stop: Callable[[], None] = lambda: None) -> None:
    """Record why the worker has no model, and wait: longer after each failure, and not at all without a supervisor.

    `check_stop` is called every second and may raise to end the wait.
    """
    store = Store(connect(settings.redis_url))
    failures = 1
    with closing(store.client), suppress(StoreUnavailable):
        failures = store.run(
            Workers(settings.redis_prefix).record_start_failure(settings.backend, redact(settings, reason))
        )
    end = time.monotonic() + backoff_seconds(failures, settings.restart_backoff_seconds)
    while (remaining := end - time.monotonic()) > 0:
        check_stop()
        time.sleep(min(remaining, 1.0))


def backoff_seconds(failures: int, maximum: float) -> float:
    """Return no pause for the first failure, which may have been bad luck."""
    return min(FIRST_BACKOFF_SECONDS * 2 ** min(failures - 2, 20), maximum) if failures > 1 else 0.0


def redact(settings: WorkerSettings, reason: str) -> str:
    """Remove secrets, and paths that the operator did not configure: every API key may read the reason."""
    text = Secrets.of(settings).redact(" ".join(reason.split()))
    configured = _configured_paths(settings)
    text = _PATH.sub(lambda path: path[0] if path[0].startswith(configured) else f"…/{path[1]}", text)
    return text[:MAX_REASON_LENGTH]


def _configured_paths(settings: WorkerSettings) -> tuple[str, ...]:
    models = (settings.model_id, settings.flux_model_id, settings.safety_checker_id)
    folders = (settings.lora_dir, settings.embedding_dir, settings.model_dir)
    return tuple(str(path) for path in (*models, *folders) if str(path).startswith("/"))
