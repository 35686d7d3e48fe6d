"""Checks the Redis server that holds the queue and the jobs."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import redis.exceptions

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.installation import Installation
from shared.redis.store import REPLY_TIMEOUT_SECONDS, connect

#: The first version with all commands that the scripts in shared/redis/lua use.
OLDEST = (6, 2)
NEARLY_FULL = 0.9

Info = Mapping[str, Any]


def check(installation: Installation) -> Iterator[Finding]:
    if installation.redis_url is None:
        yield ok("The embedded server is not running; `imagegen up` starts it.")
        return
    server = server_at(installation.redis_url)
    client, denied = connect(installation.redis_url), list[Finding]()
    try:
        denied += _check_permissions(client, installation.settings.redis_prefix, server)
        info: Info = client.info()
    except redis.exceptions.RedisError as error:
        yield from (*denied, _check_error(error, server, is_embedded=not installation.settings.redis_url))
    else:
        yield from [*denied, *_check_info(info, server)] or [_healthy(info, server)]
    finally:
        client.close()


def _check_permissions(client: redis.Redis, prefix: str, server: str) -> Iterator[Finding]:
    """Tries what a user is denied most often, by rules that are too strict, or by none for channels."""
    database = client.connection_pool.connection_kwargs.get("db", 0)
    try:
        client.eval("return redis.call('EXISTS', KEYS[1])", 1, f"{prefix}doctor")
        client.time()
        client.brpop([f"{prefix}doctor"], timeout=0.01)
        with client.pubsub() as channels:  # type: ignore[no-untyped-call]
            channels.psubscribe(f"{prefix}/{database}.celery.pidbox")
            channels.get_message(timeout=REPLY_TIMEOUT_SECONDS)
    except redis.exceptions.NoPermissionError as error:
        yield problem(
            f"{server} denies its user what the service needs: {error}.",
            f"Give it these rules: ~{prefix}* &* +@all -@admin -@dangerous +info.",
        )
    except redis.exceptions.ResponseError:
        # A replica, or a server that cannot write: its INFO tells.
        pass


def _check_error(error: redis.exceptions.RedisError, server: str, *, is_embedded: bool) -> Finding:
    match error:
        case redis.exceptions.AuthenticationError():
            return problem(f"{server} refuses the login.", "Correct the user name and password in SD_REDIS_URL.")
        case redis.exceptions.BusyLoadingError():
            return warning(f"{server} is still loading its data.", "Wait; it takes seconds per gigabyte.")
        case redis.exceptions.NoPermissionError():
            return warning(f"{server} denies this user INFO.", "Allow its user +info to have the server checked.")
        case _ if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return problem(f"{server} has a certificate that is not trusted.", "Name its authority with SD_CA_FILE.")
        case _ if is_embedded and "Permission denied" in str(error):
            return problem(f"{server} belongs to another user.", "Call imagegen as the user of the service.")
        case _ if is_embedded:
            remedy = "If the service was killed, `imagegen up` starts it again; otherwise see `imagegen logs redis`."
            return problem(f"{server} does not respond.", remedy)
        case _:
            return problem(f"{server} does not respond.", "Start it, or correct SD_REDIS_URL.")


def _healthy(info: Info, server: str) -> Finding:
    used = info.get("used_memory_human", "?")
    return ok(f"{server} is {name_of(info)}, append-only, without eviction; {used} used.")


def _check_info(info: Info, server: str) -> Iterator[Finding]:
    if version_of(info) < OLDEST:
        yield problem(f"{server} is {name_of(info)}; 6.2 or newer is required.", "Update it.")
    if info.get("role") == "slave":
        yield problem(f"{server} is a replica, which refuses writes.", "Name its primary in SD_REDIS_URL.")
    if not info.get("aof_enabled"):
        yield warning(
            f"{server} is not append-only: a restart loses accepted jobs.",
            "redis.conf: appendonly yes, appendfsync everysec.",
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        yield problem(f"{server} cannot write its append-only file.", "Free space on its disk.")
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        yield warning(
            f"{server} evicts keys when its memory is full ({policy}), accepted jobs among them.",
            "redis.conf: maxmemory-policy noeviction.",
        )
    limit, used = int(info.get("maxmemory") or 0), int(info.get("used_memory") or 0)
    if limit and used > NEARLY_FULL * limit:
        yield warning(
            f"{server} uses {used / limit:.0%} of its memory; when it is full, no job is accepted.",
            "Raise maxmemory, or lower SD_JOB_RETENTION_DAYS.",
        )


def version_of(info: Info) -> tuple[int, ...]:
    """The version of Redis; Valkey reports the version that it is compatible with under this name."""
    return tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2] if part.isdigit())


def name_of(info: Info) -> str:
    valkey = info.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {info.get('redis_version', '?')}"


def server_at(url: str) -> str:
    """How findings call the server: without its password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return "The embedded server" if "imagegen-" in parts.path else f"The server at {parts.path}"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"The server at {host}:{parts.port or 6379}{parts.path}"
