"""A container's health check: `python -m worker.alive`. It runs often, so it needs no package."""

import os
import sys
import time
from pathlib import Path

#: What the worker's loop touches every two seconds (`worker.process.liveness_file`).
VARIABLE = "SD_ALIVE_FILE"
FRESH_SECONDS = 20.0


def trouble(file: str) -> str | None:
    """Why the worker of this container does not serve, or None if it does. One that loads its model does not yet."""
    if not file:
        return f"{VARIABLE} is empty: name the file that the worker touches while it serves"
    try:
        age = time.time() - Path(file).stat().st_mtime
    except OSError:
        return f"{file} is not there: the worker does not serve yet"
    return f"{file} was touched {age:.0f} s ago: the worker does not serve" if age > FRESH_SECONDS else None


if __name__ == "__main__":
    sys.exit(trouble(os.environ.get(VARIABLE, "")))
