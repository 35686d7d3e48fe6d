"""Whether the service has its ports, or could have them."""

from collections.abc import Iterator

import psutil

from compose.doctor.asking import ProbeResponse, probe
from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import Surroundings
from compose.launcher.up import require_free_port, url_of
from shared.errors import ConfigurationError
from shared.settings.launcher import LauncherSettings

API, DASHBOARD = "/openapi.json", "/healthcheck"
#: What each of our own says there, without a key.
OWN = {API: '"title":"imagegen"', DASHBOARD: "OK"}


def look(here: Surroundings) -> Iterator[Finding]:
    settings = here.settings
    yield _judged(here, settings.port, "PORT", "API", API)
    if settings.flower_port:
        yield _judged(here, settings.flower_port, "FLOWER_PORT", "dashboard", DASHBOARD)


def _judged(here: Surroundings, port: int, setting: str, what: str, path: str) -> Finding:
    try:
        require_free_port(here.settings.host, port, setting)
    except ConfigurationError as error:
        # Another installation's may have it as well, but then this one does not run.
        if here.redis_url is not None and _is_ours(here.settings, port, path):
            return ok(f"The {what} answers on port {port}.")
        why, _, remedy = error.detail.partition(": ")
        return problem(f"{why}{_owner(port)}.", remedy[:1].upper() + remedy[1:])
    if here.redis_url is not None and not here.settings.redis_url:
        return warning(f"The service runs, but no {what} is on port {port}.", "See `imagegen logs`.")
    return ok(f"Port {port} is free for the {what}.")


def _is_ours(settings: LauncherSettings, port: int, path: str) -> bool:
    match probe(f"{url_of(settings, port)}{path}"):
        case ProbeResponse(status=200, text=text):
            return OWN[path] in text[:200]
        case _:
            return False


def _owner(port: int) -> str:
    """Who has the port, where this user may know."""
    try:
        listening = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        pid = next((each.pid for each in listening if each.laddr and each.laddr.port == port), None)
        return f"; {psutil.Process(pid).name()} has it, process {pid}" if pid else ""
    except psutil.Error:
        return ""
