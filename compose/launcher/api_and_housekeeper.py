"""The API of `imagegen up`, with the housekeeper on threads beside it: as a process it would take 30 MB more.

Where a machine runs more than this one service, as containers do, each has a process: `api.main` and
`worker.housekeeper.main`.
"""

import os
import signal
from threading import Thread

from api.main import exit_on_signals
from api.main import main as serve
from worker.housekeeper.app import Housekeeper
from worker.housekeeper.main import create_housekeeper


def main() -> None:
    housekeeper = create_housekeeper()
    # Before the thread begins, which may raise one of them at once.
    exit_on_signals()
    thread = Thread(target=_run, args=(housekeeper,), name="housekeeper")
    thread.start()
    try:
        serve()
    finally:
        housekeeper.stop()
        thread.join()


def _run(housekeeper: Housekeeper) -> None:
    try:
        housekeeper.run()
    except BaseException:
        # The API does not go on without it: `imagegen up` starts both again.
        os.kill(os.getpid(), signal.SIGTERM)
        raise


if __name__ == "__main__":
    main()
