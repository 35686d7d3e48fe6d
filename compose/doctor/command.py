"""`imagegen doctor`: loads the settings, runs all checks, prints the report."""

from importlib.metadata import version

from rich.console import Console

from compose.doctor.check_runner import CheckResult, run_checks
from compose.doctor.checks.models.token import token_of
from compose.doctor.findings import problem
from compose.doctor.installation import Installation
from compose.doctor.report import print_json, print_results
from shared.access.secrets import Secrets
from shared.errors import ConfigurationError
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load


def run(console: Console, *, as_json: bool) -> bool:
    """Returns whether no check found a problem."""
    try:
        settings = load(LauncherSettings)
    except ConfigurationError as error:
        # All other checks depend on the settings.
        remedy = "Correct it in the environment or in .env; docs/configuration.md lists all settings."
        finding = problem(error.detail, remedy)
        results, secrets = iter([CheckResult("settings", (finding,))]), Secrets(())
    else:
        installation = Installation.of(settings)
        results, secrets = run_checks(installation), Secrets.of(settings, token_of(installation) or "")
    if as_json:
        return print_json(results, version("imagegen"), secrets)
    return print_results(results, console, secrets)
