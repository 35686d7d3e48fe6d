"""A container's health check, `python -m worker.alive`. It runs often, so it imports no package."""

import os
import sys
import time
from pathlib import Path

#: Names the file that the worker touches every two seconds (`worker.process.liveness_file`).
VARIABLE = "SD_ALIVE_FILE"
FRESH_SECONDS = 20.0


def problem(file: str) -> str | None:
    """Return why the worker does not serve, or None if it does. A worker that loads its model does not serve yet."""
    if not file:
        return f"{VARIABLE} is empty: name the file that the worker touches while it serves"
    try:
        age = time.time() - Path(file).stat().st_mtime
    except OSError:
        return f"{file} does not exist: the worker does not serve yet"
    return f"{file} was touched {age:.0f} s ago: the worker does not serve" if age > FRESH_SECONDS else None


if __name__ == "__main__":
    sys.exit(problem(os.environ.get(VARIABLE, "")))
