"""How every process logs: one line of text or one JSON object per entry, on standard error."""

import json
import logging
import logging.config
from datetime import UTC, datetime
from typing import Any, Literal

#: Celery on each task that comes and goes, of which workers tell themselves; and requests with all of their addresses,
#: which may be signed.
_CHATTY = ("celery.app.trace", "celery.beat", "celery.worker.strategy", "httpx2")
#: What a caller of logging may add with `extra=` and JSON logs then carry as fields of their own.
FIELDS = ("job_id", "backend", "state")


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(log_format: Literal["text", "json"]) -> None:
    text = {"format": "%(asctime)s %(levelname)-7s %(message)s", "datefmt": "%H:%M:%S"}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"text": text, "json": {"()": JsonFormatter}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": log_format}},
            "loggers": {
                **{name: {"level": "WARNING"} for name in _CHATTY},
                # Warns of odd answers with the whole address, and addresses may be secrets.
                "urllib3": {"level": "ERROR"},
            },
            "root": {"level": "INFO", "handlers": ["stderr"]},
        }
    )
