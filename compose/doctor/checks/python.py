"""The interpreter."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import metadata

from packaging.specifiers import SpecifierSet

from compose.doctor.findings import Finding, ok, problem
from compose.doctor.surroundings import Surroundings


def look(_: Surroundings) -> Iterator[Finding]:
    wanted = SpecifierSet(metadata("imagegen")["Requires-Python"])
    told = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if platform.python_version() in wanted:
        yield ok(f"{told}.")
    else:
        yield problem(
            f"{told}; {wanted} is needed.",
            "Make the environment anew: `make clean run PYTHON=python3.12`, for example.",
        )
