"""Runs all checks at the same time, each with its own time limit."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from compose.doctor.checks.machine import clock, device, dtype, memory, outbound, python, versions
from compose.doctor.checks.models import bfl, downloads, token
from compose.doctor.checks.service import disk, exposure, ports, redis, workers
from compose.doctor.findings import Finding, problem, split_sentence
from compose.doctor.installation import PROBE_SECONDS, Installation, in_background
from shared.errors import ConfigurationError


@dataclass(frozen=True)
class Check:
    """`run` yields at least one finding, also when all is well."""

    name: str
    run: Callable[[Installation], Iterator[Finding]]
    seconds: float = 15.0


#: In the order of the report: what other checks build on comes first.
CHECKS = (
    Check("settings", exposure.check),
    Check("python", python.check),
    Check("versions", versions.check),
    Check("device", device.check, PROBE_SECONDS + 1),
    Check("dtype", dtype.check, PROBE_SECONDS + 1),
    Check("memory", memory.check, PROBE_SECONDS + 1),
    Check("disk", disk.check),
    Check("models", downloads.check),
    Check("token", token.check),
    Check("outbound", outbound.check),
    Check("bfl", bfl.check),
    Check("redis", redis.check),
    Check("clock", clock.check),
    Check("ports", ports.check),
    Check("workers", workers.check),
)


@dataclass(frozen=True)
class CheckResult:
    check: str
    findings: tuple[Finding, ...]


def run_checks(installation: Installation, checks: Sequence[Check] = CHECKS) -> Iterator[CheckResult]:
    """Yields the results in the order of `checks`, each as soon as it and those before it are complete."""
    started_at = time.monotonic()
    running = [(check, in_background(partial(_findings, check, installation))) for check in checks]
    for check, findings in running:
        try:
            yield CheckResult(check.name, findings.result(max(0.0, started_at + check.seconds - time.monotonic())))
        except TimeoutError:
            timeout = problem(
                f"This check did not finish within {check.seconds:g} s.", "A disk, a device or the network hangs."
            )
            yield CheckResult(check.name, (timeout,))


def _findings(check: Check, installation: Installation) -> tuple[Finding, ...]:
    try:
        return tuple(check.run(installation))
    except ConfigurationError as error:
        return (problem(*split_sentence(error.detail)),)
    except Exception as error:
        # Without the error's message, which may quote a secret.
        return (problem(f"This check failed: {type(error).__name__}.", "Report it as a bug, with the log."),)
