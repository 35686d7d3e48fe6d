"""Runs every test that is marked `gpu`."""

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from bench.figures import Figure, Goal
from bench.gpu.machine import Machine
from bench.gpu.surviving import run_limited

FAILED = "tests marked gpu that fail"
#: What marks a test, directly or through the parameters that tests share.
MARKS = re.compile(r"mark\.gpu|ON_EACH_DEVICE")
#: Elements of pytest's report.
PROBLEMS = ("failure", "error")
#: Of what `make gpu` may take; a quick run takes half of it.
MAX_SECONDS = 130.0
#: With one tiny model, when the bench itself is tried.
TINY = "tests/worker/engines/diffusers/decoding/test_decoded_pixels.py"
#: In place of the configuration in pyproject.toml: the machine may have other versions of pytest and its plugins, and
#: another PyTorch may warn of other things.
CONFIGURATION = "[pytest]\nmarkers =\n    gpu: needs a CUDA device\n    timeout: for a plugin\n"
PYTEST = (
    sys.executable,
    "-m",
    "pytest",
    "-v",
    "--tb=short",
    "-rf",
    "-p",
    "no:cacheprovider",
    "--durations=8",
    "--rootdir=.",
)
#: They take a minute of the three that a quick run has.
SLOW = "full_size"


def measure(machine: Machine, skip: Callable[[str], None]) -> Iterator[Figure]:
    files = [TINY] if machine.is_tiny else test_files(Path("tests"))
    chosen = " or ".join(machine.tests) or (f"not {SLOW}" if machine.quick else "")
    marks = [] if machine.is_tiny else ["-m", "gpu", "-k", chosen]
    with tempfile.TemporaryDirectory() as folder:
        result, configuration = Path(folder, "tests.xml"), Path(folder, "pytest.ini")
        configuration.write_text(CONFIGURATION)
        seconds = max(30.0, min(MAX_SECONDS / (2 if machine.quick else 1), machine.seconds_left()))
        command = [*PYTEST, "-c", str(configuration), *marks, f"--junitxml={result}", *files]
        if run_limited(command, seconds) is None:
            skip(f"some of the tests marked gpu: they take more than {seconds:.0f} s")
        if not result.exists():
            raise RuntimeError("pytest ended without a report; what it printed is above")
        yield from figures(result.read_text())


def test_files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("test_*.py") if MARKS.search(path.read_text("utf-8")))


def figures(xml: str) -> Iterator[Figure]:
    """How many pass and fail, and why: nobody can look there later."""
    # Written by pytest on this machine.
    cases = list(ElementTree.fromstring(xml).iter("testcase"))  # noqa: S314
    problems = [(case, problem) for case in cases for problem in case if problem.tag in PROBLEMS]
    failed = {case.get("name"): " ".join((problem.get("message") or "").split()) for case, problem in problems}
    skipped = [case for case in cases if case.find("skipped") is not None]
    seconds = sum(float(case.get("time", 0)) for case in cases)
    passed = len(cases) - len(failed) - len(skipped)
    yield Figure("tests marked gpu that pass", passed, "tests", detail=f"{seconds:.0f} s, {len(skipped)} skipped")
    detail = "; ".join(f"{name}: {message[:150]}" for name, message in failed.items())
    yield Figure(FAILED, len(failed), "tests", Goal(0), detail=detail[:2000])
