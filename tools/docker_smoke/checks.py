"""Runs commands, waits for conditions, and prints the result of each check."""

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


class Failed(Exception):
    """A check did not pass."""


def check(passed: bool, promise: str, detail: object = "") -> None:
    print(f"  {'ok  ' if passed else 'FAIL'}  {promise}{f'  ({detail})' if detail != '' else ''}", flush=True)
    if not passed:
        raise Failed(promise)


def run(*command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, fails: bool = False) -> str:
    """The output of the command. Raises Failed unless it succeeds, or fails with `fails`."""
    done = subprocess.run(  # noqa: S603 - the commands are constants of this package
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if (done.returncode != 0) is not fails:
        raise Failed(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout.strip()


def wait_for(what: str, condition: Callable[[], T | None], seconds: float = 180) -> T:
    """The first true result of `condition`. Raises Failed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.3)
    raise Failed(f"{what}: not within {seconds:g} s")


def timed(work: Callable[[], object]) -> float:
    started_at = time.monotonic()
    work()
    return time.monotonic() - started_at


def inspect(name: str, field: str) -> str:
    return run("docker", "inspect", "--format", f"{{{{{field}}}}}", name)
