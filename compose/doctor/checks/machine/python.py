"""Checks the version of the Python interpreter."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import metadata

from packaging.specifiers import SpecifierSet

from compose.doctor.findings import Finding, ok, problem
from compose.doctor.installation import Installation


def check(_: Installation) -> Iterator[Finding]:
    required = SpecifierSet(metadata("imagegen")["Requires-Python"])
    running = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if platform.python_version() in required:
        yield ok(f"{running}.")
    else:
        yield problem(
            f"{running}; {required} is required.",
            "Recreate the environment, for example: `make clean run PYTHON=python3.12`.",
        )
