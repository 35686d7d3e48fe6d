"""Finds and kills the processes of a worker."""

from contextlib import suppress

import psutil

from tests.support.process import Process


def children_of(worker: Process | int) -> list[psutil.Process]:
    pid = worker if isinstance(worker, int) else worker.pid
    return psutil.Process(pid).children(recursive=True)


def child_of(worker: Process | int) -> psutil.Process:
    """The child process that renders."""
    (child,) = [child for child in children_of(worker) if not any("tracker" in part for part in child.cmdline())]
    return child


def kill_process_tree(worker: Process) -> None:
    """Suspends all processes first, because a parent reacts to the death of its child."""
    family = [psutil.Process(worker.pid), *children_of(worker)]
    for process in family:
        process.suspend()
    for process in family:
        process.kill()
    worker.wait()


def is_alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
