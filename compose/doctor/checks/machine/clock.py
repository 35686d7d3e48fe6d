"""Compares this machine's clock with the clocks of Redis and of external servers."""

import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import redis.exceptions

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.http_probe import ProbeResponse
from compose.doctor.installation import Installation
from shared.redis.store import connect

#: Times and estimates in responses are wrong by as much.
NOTABLE_SECONDS = 10.0
#: Webhook receivers refuse timestamps that are further off (Standard Webhooks), and image links expire early.
WRONG_SECONDS = 300.0
REMEDY = "Synchronize the machines' clocks: `timedatectl set-ntp true`."


def check(installation: Installation) -> Iterator[Finding]:
    skews = list(_skews(installation))
    if not skews:
        yield ok("There is no other clock to compare with.")
    for server, seconds in skews:
        yield check_skew(server, seconds)


def check_skew(server: str, seconds: float) -> Finding:
    """`seconds` is how far the server's clock is ahead."""
    if abs(seconds) < NOTABLE_SECONDS:
        return ok(f"The clock agrees with the clock of {server}.")
    detail = f"The clock of {server} is {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
    if abs(seconds) < WRONG_SECONDS:
        return warning(f"{detail}.", REMEDY)
    return problem(f"{detail}: receivers refuse webhooks, and image links expire at the wrong time.", REMEDY)


def _skews(installation: Installation) -> Iterator[tuple[str, float]]:
    if installation.redis_url is not None and (seconds := _redis_skew(installation.redis_url)) is not None:
        yield "Redis", seconds
    for url, response in installation.responses.result().items():
        if isinstance(response, ProbeResponse) and response.skew_seconds is not None:
            yield str(urlsplit(url).hostname), response.skew_seconds


def _redis_skew(url: str) -> float | None:
    client = connect(url)
    try:
        seconds, microseconds = client.time()
        return float(seconds) + microseconds / 1e6 - time.time()
    except redis.exceptions.RedisError:
        return None
    finally:
        client.close()
