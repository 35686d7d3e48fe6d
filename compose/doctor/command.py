"""`imagegen doctor`, from the settings to the report."""

from importlib.metadata import version

from rich.console import Console

from compose.doctor.checks.token import token_of
from compose.doctor.examination import Result, examine
from compose.doctor.findings import problem
from compose.doctor.report import print_json, print_results
from compose.doctor.secrets import Secrets
from compose.doctor.surroundings import Surroundings
from shared.errors import ConfigurationError
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load


def run(console: Console, *, as_json: bool) -> bool:
    """Whether there was no problem."""
    try:
        settings = load(LauncherSettings)
    except ConfigurationError as error:
        # All else depends on them.
        wrong = problem(error.detail, "Correct it in the environment or in .env; docs/configuration.md has them all.")
        results, secrets = iter([Result("settings", (wrong,))]), Secrets(())
    else:
        here = Surroundings.of(settings)
        results, secrets = examine(here), Secrets.of(settings, token_of(here) or "")
    if as_json:
        return print_json(results, version("imagegen"), secrets)
    return print_results(results, console, secrets)
