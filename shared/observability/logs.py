"""Logging of every process to standard error: one line of text or one JSON object per entry."""

import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

_LEVELS = {
    # Messages for every task, which workers log themselves, and requests with full URLs, which may be signed.
    **dict.fromkeys(("celery.app.trace", "celery.worker.strategy", "httpx2", "mcp"), logging.WARNING),
    # Its warnings contain full URLs, which may be secret.
    "urllib3": logging.ERROR,
    # Warns about each of three attempts to send traces before it reports the failure.
    "opentelemetry": logging.ERROR,
}
#: Fields of JSON entries, set with `log_context` or `extra=`.
FIELDS = ("job_id", "backend", "worker", "state", "method", "status", "milliseconds")

_STDERR = 2

LogFormat = Literal["text", "json"]
_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default=MappingProxyType({}))


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Add fields to everything that this thread or task logs in the block."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


class JsonFormatter(logging.Formatter):
    def __init__(self, fields: Mapping[str, str]) -> None:
        """`fields` are added to every entry of the process."""
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().rstrip(),
            **self._fields,
            **_bound.get(),
        }
        entry |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        line, job_id = super().formatMessage(record), _bound.get().get("job_id")
        return line if job_id is None or job_id in line else f"{line} (job {job_id})"


def open_standard_streams() -> None:
    """The next files would get the descriptors of closed streams, and what is printed would go into them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def configure_logging(log_format: LogFormat, **fields: str) -> None:
    """`fields` are added to every entry of this process. May be called again with more fields."""
    open_standard_streams()
    # Not with logging.config, which imports a server of settings and every handler: 1 MB.
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(fields) if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger("kombu.transport.redis").addFilter(_is_untraced)
    logging.captureWarnings(capture=True)
    # A process continues when an entry cannot be written: the disk is full or the reader of the pipe has gone.
    logging.raiseExceptions = False
    if log_format == "json":
        sys.excepthook = lambda _, error, __: _log_uncaught(error)
        threading.excepthook = lambda raised: _log_uncaught(raised.exc_value)


def _is_untraced(record: logging.LogRecord) -> bool:
    """Celery's transport logs a traceback each second while Redis refuses scripts, which others report in a line."""
    return record.exc_info is None


def log_warnings(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        logging.getLogger(__name__).warning(sentence)


def _log_uncaught(error: BaseException | None) -> None:
    logging.getLogger(__name__).critical("uncaught", exc_info=error)
