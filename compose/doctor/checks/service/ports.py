"""Checks that the service has its ports, or could bind them."""

from collections.abc import Iterator

import psutil

from compose.doctor.findings import Finding, ok, problem, split_sentence, warning
from compose.doctor.http_probe import ProbeResponse, probe
from compose.doctor.installation import Installation
from compose.launcher.data_folder import is_running
from compose.launcher.up import require_free_port, url_of
from shared.errors import ConfigurationError
from shared.settings.launcher import LauncherSettings

API, FLOWER = "/", "/healthcheck"
#: Part of the response that identifies each, without an API key and at once: the first /openapi.json takes seconds.
SIGNATURES = {API: '"name":"imagegen"', FLOWER: "OK"}


def check(installation: Installation) -> Iterator[Finding]:
    settings = installation.settings
    yield _check_port(installation, settings.port, "PORT", "The API", API)
    if settings.flower_port:
        yield _check_port(installation, settings.flower_port, "FLOWER_PORT", "Flower", FLOWER)


def _check_port(installation: Installation, port: int, setting: str, service: str, path: str) -> Finding:
    try:
        require_free_port(installation.settings.host, port, setting)
    except ConfigurationError as error:
        # Another installation may have the port as well, but then this one is not running.
        if installation.redis_url is not None and _is_ours(installation.settings, port, path):
            return ok(f"{service} responds on port {port}.")
        detail, remedy = split_sentence(error.detail)
        return problem(f"{detail[:-1]}{_owner_of(port)}.", remedy)
    if is_running(installation.settings.data_dir):
        return warning(
            f"{service} does not listen on port {port}, although the service is running.", "See `imagegen logs`."
        )
    return ok(f"Port {port} is free.")


def _is_ours(settings: LauncherSettings, port: int, path: str) -> bool:
    match probe(f"{url_of(settings, port)}{path}"):
        case ProbeResponse(status=200, text=text):
            return SIGNATURES[path] in text[:200]
        case _:
            return False


def _owner_of(port: int) -> str:
    """The process that listens on the port; empty where this user may not see it."""
    try:
        listening = [
            connection for connection in psutil.net_connections("tcp") if connection.status == psutil.CONN_LISTEN
        ]
        pid = next((c.pid for c in listening if c.laddr and c.laddr.port == port), None)
        return f"; {psutil.Process(pid).name()} (process {pid}) uses it" if pid else ""
    except psutil.Error:
        return ""
