"""The launcher's shadow: when the launcher is gone, however it went, so is everything that it started.

Every process of the service is started into this process's group. The pipe on standard input closes when the
launcher ends, also by kill -9; then the group is asked to stop, and killed if it does not.
"""

import os
import signal
import sys
import time

GRACE_SECONDS = 10.0


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while _is_company_left() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(0, signal.SIGKILL)


def _is_company_left() -> bool:
    import psutil

    group = os.getpgrp()
    return any(_group_of(process.pid) == group for process in psutil.process_iter() if process.pid != os.getpid())


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


if __name__ == "__main__":
    main()
