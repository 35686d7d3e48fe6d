"""Checks settings that keep the service from starting: unknown names, and an open network without keys."""

from collections.abc import Iterator

from compose.doctor.findings import Finding, ok, problem, split_sentence, warning
from compose.doctor.installation import Installation
from shared.errors import ConfigurationError
from shared.settings.loading import setting_warnings


def check(installation: Installation) -> Iterator[Finding]:
    settings = installation.settings
    for sentence in setting_warnings(settings):
        yield warning(*split_sentence(sentence))
    try:
        settings.require_keys()
        if settings.flower_port:
            settings.require_flower_login()
    except ConfigurationError as error:
        yield problem(*split_sentence(error.detail))
        return
    count = len(settings.api_key)
    keys = f"{count} API key{'' if count == 1 else 's'}" if count else "no API key is required"
    yield ok(f"The settings allow a start: SD_HOST={settings.host}, {keys}.")
