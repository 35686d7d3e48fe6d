"""What every check is made of."""

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


class Failed(Exception):
    """A check did not hold."""


def check(holds: bool, promise: str, detail: object = "") -> None:
    print(f"  {'ok  ' if holds else 'FAIL'}  {promise}{f'  ({detail})' if detail != '' else ''}", flush=True)
    if not holds:
        raise Failed(promise)


def run(*command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, fails: bool = False) -> str:
    """What the command printed. Raises Failed unless it ends as expected."""
    done = subprocess.run(  # noqa: S603 - the commands are this file's own
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if (done.returncode != 0) is not fails:
        raise Failed(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout.strip()


def until(what: str, look: Callable[[], T | None], seconds: float = 180) -> T:
    """The first answer that is true. Raises Failed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.3)
    raise Failed(f"{what}: not within {seconds:g} s")


def timed(work: Callable[[], object]) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def inspect(thing: str, field: str) -> str:
    return run("docker", "inspect", "--format", f"{{{{{field}}}}}", thing)
