"""Who may do what: the keys of the service, as the operator writes them in SD_API_KEY."""

import re
from enum import StrEnum

from pydantic import SecretStr

from shared.jobs.types import FrozenModel

#: The name of a key that was given none.
UNNAMED = "default"
SHORTEST_KEY = 16
#: A key of fewer different characters is a word or a keyboard row.
FEWEST_CHARACTERS = 8

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_SECRET = re.compile(r"[\x21-\x7e]{1,256}")


class Scope(StrEnum):
    """What a key allows: from READ on each what those before it do, ADMIN all."""

    METRICS = "metrics"
    """Reading /metrics, and nothing else."""
    READ = "read"
    """Looking."""
    WRITE = "write"
    """Making, cancelling and pinning jobs."""
    PRIORITY = "priority"
    """Also `priority: high`, which goes before the jobs of everybody else."""
    ADMIN = "admin"
    """The jobs of every key."""

    def includes(self, other: "Scope") -> bool:
        if Scope.METRICS in (self, other):
            return self in (other, Scope.ADMIN)
        order = list(Scope)
        return order.index(self) >= order.index(other)


class ApiKey(FrozenModel):
    name: str
    """Whose jobs it opens. The keys of one name differ in scope."""
    secret: SecretStr
    scope: Scope = Scope.WRITE


def parse_api_keys(text: str) -> tuple[ApiKey, ...]:
    """From `key`, `name:key` or `name:key:scope`, comma-separated. Raises ValueError, which never quotes an entry."""
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    keys = tuple(_parsed(entry, number) for number, entry in enumerate(entries, 1))
    if len({(key.name, key.scope) for key in keys}) < len(keys):
        raise ValueError("two keys have the same name and scope; write each as name:key, with a name of its own")
    if len({key.secret.get_secret_value() for key in keys}) < len(keys):
        raise ValueError("the same key is there twice")
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
            raise ValueError(f"key {number} is not of the form key, name:key or name:key:scope")
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name of key {number} must be 1 to 32 letters, digits, dots, dashes and underscores")
    if scope not in list(Scope):
        raise ValueError(f"the scope of key {number} must be one of {', '.join(Scope)}")
    if not _SECRET.fullmatch(secret):
        raise ValueError(f"key {number} must be of at most 256 visible ASCII characters, without commas and colons")
    if len(secret) < SHORTEST_KEY or len(set(secret)) < FEWEST_CHARACTERS:
        raise ValueError(
            f"key {number} is too easy to guess: it needs {SHORTEST_KEY} characters, {FEWEST_CHARACTERS} of them "
            "different; `openssl rand -hex 24` makes one"
        )
    return ApiKey(name=name, secret=SecretStr(secret), scope=Scope(scope))
