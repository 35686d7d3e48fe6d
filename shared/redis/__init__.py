"""Redis, imported without redis-py's own metrics, which nothing here exports.

Wherever OpenTelemetry is installed, redis-py imports its metrics: 3 MB in every process.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_METRICS = ("opentelemetry.metrics", "opentelemetry.sdk.metrics")


@contextmanager
def _not_importable(names: tuple[str, ...]) -> Iterator[None]:
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _not_importable(_METRICS):
    import redis.asyncio  # noqa: F401
