"""What becomes of a start that failed: the reason goes where people look, and the next one is not tried at once."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from shared.errors import StoreUnavailable
from shared.redis.store import Store, connect
from shared.settings.worker import WorkerSettings
from shared.workers.records import Workers

FIRST_PAUSE_SECONDS = 10.0
MAX_REASON = 500
#: Two parts at least: a lone /word is as often prose.
_PATH = re.compile(r"(?<![\w./:~-])/[^\s'\",:;()\[\]]+/([^\s'\",:;()\[\]/]*)")


def report_and_back_off(settings: WorkerSettings, sentence: str, check_stop: Callable[[], None] = lambda: None) -> None:
    """Remember why the worker has no model, and wait: longer after each failure, and not at all where nothing starts
    the worker again by itself. `check_stop` is called each second, and may raise to end the wait."""
    store = Store(connect(settings.redis_url))
    failures = 1
    with closing(store.client), suppress(StoreUnavailable):
        failures = store.run(
            Workers(settings.redis_prefix).record_start_failure(settings.backend, redact(settings, sentence))
        )
    end = time.monotonic() + backoff_seconds(failures, settings.restart_backoff_seconds)
    while (left := end - time.monotonic()) > 0:
        check_stop()
        time.sleep(min(left, 1.0))


def backoff_seconds(failures: int, most: float) -> float:
    """The first one may have been bad luck."""
    return min(FIRST_PAUSE_SECONDS * 2 ** min(failures - 2, 20), most) if failures > 1 else 0.0


def redact(settings: WorkerSettings, sentence: str) -> str:
    """Without secrets, and of paths only what the operator chose: everybody with a key may read it."""
    text = " ".join(sentence.split())
    for secret in sorted(_secrets(settings), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _PATH.sub(
        lambda found: found[0] if found[0].startswith(_configured_paths(settings)) else f"…/{found[1]}", text
    )[:MAX_REASON]


def _secrets(settings: WorkerSettings) -> Iterator[str]:
    for _, value in settings:
        if isinstance(value, SecretStr) and value.get_secret_value():
            yield value.get_secret_value()
    if password := urlsplit(settings.redis_url).password:
        yield from (password, unquote(password))


def _configured_paths(settings: WorkerSettings) -> tuple[str, ...]:
    named = (settings.model_id, settings.flux_model_id, settings.safety_checker_id, settings.lora_dir)
    return tuple(str(place) for place in (*named, settings.model_dir) if str(place).startswith("/"))
