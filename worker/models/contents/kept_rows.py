"""A few values that are kept in a file across restarts, because computing them again takes time."""

import hashlib
import json
import logging
import os
import platform
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MAX_ROWS, MAX_BYTES = 512, 1 << 20


class KeptRows:
    """Rows of numbers and texts by subject. Losing the file only costs time, so errors of it are ignored."""

    def __init__(self, file: Path | None) -> None:
        """Without a file, rows are kept until this process ends."""
        self._file = file
        self._rows: OrderedDict[str, list[Any]] = OrderedDict()
        if file is not None:
            self._rows.update(_read(file))

    def get(self, *subject: Hashable) -> list[Any] | None:
        return self._rows.get(_key(subject))

    def put(self, row: list[Any], *subject: Hashable) -> None:
        if self._file is not None:
            # Other workers write the same file.
            self._rows = OrderedDict(_read(self._file) | self._rows)
        self._rows[_key(subject)] = row
        while len(self._rows) > MAX_ROWS:
            self._rows.popitem(last=False)
        if self._file is not None:
            _write(self._file, self._rows)


def _read(file: Path) -> dict[str, list[Any]]:
    try:
        if file.stat().st_size > MAX_BYTES:
            return {}
        rows = {key: list(row) for key, row in json.loads(file.read_text("utf-8")).items()}
        if all(isinstance(value, str | int | float) for row in rows.values() for value in row):
            return rows
        logger.warning("%s has unknown content and is written anew", file)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("%s is not readable and is written anew: %s", file, error)
    return {}


def _write(file: Path, rows: OrderedDict[str, list[Any]]) -> None:
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Processes of two containers may have the same number.
        staged = file.with_suffix(f".{platform.node()}-{os.getpid()}")
        staged.write_text(json.dumps(rows), "utf-8")
        staged.replace(file)


def _key(subject: tuple[Hashable, ...]) -> str:
    return hashlib.sha256(repr(subject).encode("utf-8", "surrogateescape")).hexdigest()[:24]
