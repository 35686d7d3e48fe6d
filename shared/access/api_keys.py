"""API keys and their scopes, parsed from SD_API_KEY."""

import re
from enum import StrEnum

from pydantic import SecretStr

from shared.jobs.types import FrozenModel

#: The name of an unnamed key.
UNNAMED = "default"
MIN_KEY_LENGTH = 16
#: A key with fewer different characters is a word or a keyboard row.
MIN_DIFFERENT_CHARACTERS = 8

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_SECRET = re.compile(r"[\x21-\x7e]{1,256}")


class Scope(StrEnum):
    """What a key allows: each scope from READ on includes the ones before it, and ADMIN includes all."""

    METRICS = "metrics"
    """Read /metrics, nothing else."""
    READ = "read"
    """Read jobs, images and status."""
    WRITE = "write"
    """Create, cancel and pin jobs."""
    PRIORITY = "priority"
    """Also use `priority: high`, which starts before all other jobs."""
    ADMIN = "admin"
    """Access the jobs of every key; load, unload and pin models."""

    def includes(self, other: "Scope") -> bool:
        if Scope.METRICS in (self, other):
            return self in (other, Scope.ADMIN)
        order = list(Scope)
        return order.index(self) >= order.index(other)


class ApiKey(FrozenModel):
    name: str
    """Owner of its jobs. Keys of the same name differ in scope."""
    secret: SecretStr
    scope: Scope = Scope.WRITE


def parse_api_keys(text: str) -> tuple[ApiKey, ...]:
    """From `key`, `name:key` or `name:key:scope`, comma-separated. Raises ValueError, which never quotes an entry."""
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    keys = tuple(_parsed(entry, number) for number, entry in enumerate(entries, 1))
    if len({(key.name, key.scope) for key in keys}) < len(keys):
        raise ValueError("two keys have the same name and scope; give each a unique name, as in name:key")
    if len({key.secret.get_secret_value() for key in keys}) < len(keys):
        raise ValueError("the same key is listed twice")
    return keys


def _parsed(entry: str, number: int) -> ApiKey:
    match entry.split(":"):
        case [secret]:
            name, scope = UNNAMED, Scope.WRITE.value
        case [name, secret]:
            scope = Scope.WRITE.value
        case [name, secret, scope]:
            pass
        case _:
            raise ValueError(f"key {number} must have the form key, name:key or name:key:scope")
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name of key {number} must have 1 to 32 letters, digits, dots, dashes or underscores")
    if scope not in list(Scope):
        raise ValueError(f"the scope of key {number} must be one of {', '.join(Scope)}")
    if not _SECRET.fullmatch(secret):
        raise ValueError(f"key {number} may have at most 256 visible ASCII characters, without commas and colons")
    if len(secret) < MIN_KEY_LENGTH or len(set(secret)) < MIN_DIFFERENT_CHARACTERS:
        raise ValueError(
            f"key {number} is too easy to guess: it needs {MIN_KEY_LENGTH} characters, {MIN_DIFFERENT_CHARACTERS} of "
            "them different; `openssl rand -hex 24` makes one"
        )
    return ApiKey(name=name, secret=SecretStr(secret), scope=Scope(scope))
