"""The secrets of an installation, which no report may contain."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from shared.settings.launcher import LauncherSettings

MASK = "***"


@dataclass(frozen=True)
class Secrets:
    values: tuple[str, ...]

    @classmethod
    def of(cls, settings: LauncherSettings, *others: str) -> Self:
        values = {value for value in (*_secrets_in(settings), *others) if value}
        # Longest first: one may be part of another.
        return cls(tuple(sorted(values, key=len, reverse=True)))

    def redact(self, text: str) -> str:
        for value in self.values:
            text = text.replace(value, MASK)
        return text


def _secrets_in(settings: LauncherSettings) -> Iterator[str]:
    for _, value in settings:
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
    yield from (key.secret.get_secret_value() for key in settings.api_key)
    password = urlsplit(settings.redis_url).password
    yield from (password, unquote(password)) if password else ()
