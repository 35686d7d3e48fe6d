"""All checks, side by side, each with the time that it may take."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from compose.doctor.checks import (
    bfl,
    clock,
    device,
    disk,
    doors,
    dtype,
    memory,
    models,
    outbound,
    ports,
    python,
    redis,
    token,
    versions,
    workers,
)
from compose.doctor.findings import Finding, problem
from compose.doctor.surroundings import PROBE_SECONDS, Surroundings, in_background


@dataclass(frozen=True)
class Check:
    """`look` gives at least one finding: also what is well is told."""

    name: str
    look: Callable[[Surroundings], Iterator[Finding]]
    seconds: float = 15.0


#: In the order in which they are told: what others build on comes first.
CHECKS = (
    Check("doors", doors.look),
    Check("python", python.look),
    Check("versions", versions.look),
    Check("device", device.look, PROBE_SECONDS + 1),
    Check("dtype", dtype.look, PROBE_SECONDS + 1),
    Check("memory", memory.look, PROBE_SECONDS + 1),
    Check("disk", disk.look),
    Check("models", models.look),
    Check("token", token.look),
    Check("outbound", outbound.look),
    Check("bfl", bfl.look),
    Check("redis", redis.look),
    Check("clock", clock.look),
    Check("ports", ports.look),
    Check("workers", workers.look),
)


@dataclass(frozen=True)
class Result:
    check: str
    findings: tuple[Finding, ...]


def examine(surroundings: Surroundings, checks: Sequence[Check] = CHECKS) -> Iterator[Result]:
    """In the order of `checks`, each result as soon as it and those before it are there."""
    begin = time.monotonic()
    running = [(check, in_background(partial(_findings, check, surroundings))) for check in checks]
    for check, findings in running:
        try:
            yield Result(check.name, findings.result(max(0.0, begin + check.seconds - time.monotonic())))
        except TimeoutError:
            late = problem(
                f"This check did not end within {check.seconds:g} s.",
                "Something that it asks hangs: a disk, a device or the network.",
            )
            yield Result(check.name, (late,))


def _findings(check: Check, surroundings: Surroundings) -> tuple[Finding, ...]:
    try:
        return tuple(check.look(surroundings))
    except Exception as error:
        # Not its words: they may quote what is secret.
        return (problem(f"This check broke off: {type(error).__name__}.", "Tell the authors, with what the log says."),)
