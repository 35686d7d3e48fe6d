"""Whether this machine's clock agrees with others."""

import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import redis.exceptions

from compose.doctor.asking import ProbeResponse
from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import Surroundings
from shared.redis.store import connect

#: Times in answers and estimates are off by as much.
NOTABLE_SECONDS = 10.0
#: Receivers of webhooks refuse those whose time is further off (Standard Webhooks), and image links lapse early.
WRONG_SECONDS = 300.0
REMEDY = "Let the machines set their clocks: `timedatectl set-ntp true`."


def look(here: Surroundings) -> Iterator[Finding]:
    compared = list(_compared(here))
    if not compared:
        yield ok("There is no other clock to compare with.")
    for whose, ahead in compared:
        yield judged(whose, ahead)


def judged(whose: str, ahead: float) -> Finding:
    if abs(ahead) < NOTABLE_SECONDS:
        return ok(f"The clock agrees with that of {whose}.")
    told = f"The clock of {whose} is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
    if abs(ahead) < WRONG_SECONDS:
        return warning(f"{told}.", REMEDY)
    return problem(f"{told}: webhooks are refused and image links lapse at the wrong time.", REMEDY)


def _compared(here: Surroundings) -> Iterator[tuple[str, float]]:
    """Whose clock, and how many seconds it is ahead."""
    if here.redis_url is not None and (ahead := _redis_ahead(here.redis_url)) is not None:
        yield "Redis", ahead
    for url, answer in here.outside.result().items():
        if isinstance(answer, ProbeResponse) and answer.skew_seconds is not None:
            yield str(urlsplit(url).hostname), answer.skew_seconds


def _redis_ahead(url: str) -> float | None:
    client = connect(url)
    try:
        seconds, micros = client.time()
        return float(seconds) + micros / 1e6 - time.time()
    except redis.exceptions.RedisError:
        return None
    finally:
        client.close()
