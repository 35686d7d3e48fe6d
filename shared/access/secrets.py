"""The secrets of an installation, which nothing that others read may contain."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from shared.access.api_keys import ApiKey
from shared.settings.infrastructure import InfrastructureSettings

MASK = "***"


@dataclass(frozen=True)
class Secrets:
    values: tuple[str, ...]

    @classmethod
    def of(cls, settings: InfrastructureSettings, *others: str) -> Self:
        values = {value for value in (*_secrets_in(settings), *others) if value}
        # Longest first: one may be part of another.
        return cls(tuple(sorted(values, key=len, reverse=True)))

    def redact(self, text: str) -> str:
        for value in self.values:
            text = text.replace(value, MASK)
        return text


def _secrets_in(settings: InfrastructureSettings) -> Iterator[str]:
    for _, value in settings:
        for part in value if isinstance(value, tuple) else (value,):
            secret = part.secret if isinstance(part, ApiKey) else part
            if isinstance(secret, SecretStr):
                yield secret.get_secret_value()
    password = urlsplit(settings.redis_url).password
    yield from (password, unquote(password)) if password else ()
