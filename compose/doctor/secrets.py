"""What must not be told, whoever quotes it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from shared.settings.launcher import LauncherSettings

HIDDEN = "***"


@dataclass(frozen=True)
class Secrets:
    values: tuple[str, ...]

    @classmethod
    def of(cls, settings: LauncherSettings, *others: str) -> Self:
        found = {value for value in (*_held_by(settings), *others) if value}
        # The longest first: one may be part of another.
        return cls(tuple(sorted(found, key=len, reverse=True)))

    def hide(self, text: str) -> str:
        for value in self.values:
            text = text.replace(value, HIDDEN)
        return text


def _held_by(settings: LauncherSettings) -> Iterator[str]:
    for _, value in settings:
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
    yield from (key.secret.get_secret_value() for key in settings.api_key)
    password = urlsplit(settings.redis_url).password
    yield from (password, unquote(password)) if password else ()
