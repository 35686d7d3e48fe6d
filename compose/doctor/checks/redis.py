"""The server that keeps the queue and the jobs."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import redis.exceptions

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import Surroundings
from shared.redis.store import connect

#: The first with everything that the scripts in shared/redis/lua use.
OLDEST = (6, 2)
FULL = 0.9


def look(here: Surroundings) -> Iterator[Finding]:
    if here.redis_url is None:
        yield ok("The embedded server is not running; `imagegen up` starts it.")
        return
    place = place_of(here.redis_url)
    client = connect(here.redis_url)
    try:
        told: dict[str, Any] = client.info()
    except redis.exceptions.AuthenticationError:
        yield problem(f"{place} refuses the login.", "Correct user name and password in SD_REDIS_URL.")
    except redis.exceptions.BusyLoadingError:
        yield warning(f"{place} is still loading its data.", "Wait; it takes seconds for each gigabyte.")
    except redis.exceptions.NoPermissionError:
        yield warning(
            f"{place} does not let this user ask how it is (INFO).", "Allow its user +info to have it checked."
        )
    except redis.exceptions.RedisError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            yield problem(
                f"{place} shows a certificate that is not trusted here.", "Name its authority with SD_CA_FILE."
            )
            return
        yield problem(
            f"{place} does not answer.",
            "Start it, or correct SD_REDIS_URL."
            if here.settings.redis_url
            else "If the service was killed, `imagegen up` starts it again; else look at `imagegen logs redis`.",
        )
    else:
        yield from list(_judged(told, place)) or [_well(told, place)]
    finally:
        client.close()


def _well(told: Mapping[str, Any], place: str) -> Finding:
    used = told.get("used_memory_human", "?")
    return ok(f"{place} is {name_of(told)}, append-only, without eviction; {used} used.")


def _judged(told: Mapping[str, Any], place: str) -> Iterator[Finding]:
    if version_of(told) < OLDEST:
        yield problem(f"{place} is {name_of(told)}; 6.2 or newer is needed.", "Update it.")
    if told.get("role") == "slave":
        yield problem(f"{place} is a replica, and takes no writes.", "Name its primary in SD_REDIS_URL.")
    if not told.get("aof_enabled"):
        yield warning(
            f"{place} is not append-only: accepted jobs are gone when it ends.",
            "redis.conf: appendonly yes, appendfsync everysec.",
        )
    if told.get("aof_last_write_status", "ok") != "ok":
        yield problem(f"{place} cannot write its log.", "Make room on its disk.")
    if (policy := told.get("maxmemory_policy", "noeviction")) != "noeviction":
        yield warning(
            f"{place} throws keys away when its memory is full ({policy}): accepted jobs among them.",
            "redis.conf: maxmemory-policy noeviction.",
        )
    most, used = int(told.get("maxmemory") or 0), int(told.get("used_memory") or 0)
    if most and used > FULL * most:
        yield warning(
            f"{place} has used {used / most:.0%} of its memory; when it is full, no job is taken.",
            "Raise maxmemory, or keep jobs for fewer days with SD_JOB_RETENTION_DAYS.",
        )


def version_of(told: Mapping[str, Any]) -> tuple[int, ...]:
    """Of Redis; Valkey tells the one that it is compatible with under this name."""
    return tuple(int(part) for part in str(told.get("redis_version", "0")).split(".")[:2] if part.isdigit())


def name_of(told: Mapping[str, Any]) -> str:
    valkey = told.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {told.get('redis_version', '?')}"


def place_of(url: str) -> str:
    """Without the password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return "The embedded server" if "imagegen-" in parts.path else f"The server at {parts.path}"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"The server at {host}:{parts.port or 6379}{parts.path}"
