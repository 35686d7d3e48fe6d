"""Who can come in, as far as that keeps the service from starting."""

from collections.abc import Iterator

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import Surroundings
from shared.errors import ConfigurationError
from shared.settings.loading import unknown_setting_warnings


def look(here: Surroundings) -> Iterator[Finding]:
    settings = here.settings
    for sentence in unknown_setting_warnings():
        what, _, remedy = sentence.partition(": ")
        yield warning(f"{what}.", remedy[:1].upper() + remedy[1:])
    try:
        settings.require_keys()
        if settings.flower_port:
            settings.require_flower_login()
    except ConfigurationError as error:
        why, _, remedy = error.detail.partition(": ")
        yield problem(f"{why}.", remedy[:1].upper() + remedy[1:])
        return
    count = len(settings.api_key)
    keys = f"{count} key{'' if count == 1 else 's'}" if count else "no key is asked for"
    yield ok(f"The settings allow a start: SD_HOST={settings.host}, {keys}.")
