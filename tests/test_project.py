import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("api", "worker", "shared", "compose")

FORBIDDEN = {
    "api/health.py": ["import torch", "import PIL.Image", "import numpy", "import worker.runner"],
    "shared/images.py": ["import diffusers", "import fastapi", "import api.app"],
    "compose/client.py": ["import transformers"],
    "worker/app.py": ["import starlette.requests", "import uvicorn", "import api.app"],
    "worker/runner.py": ["import celery", "import redis", "import shared.jobs"],
    "worker/backends/flux_api.py": ["import redis", "import worker.backends.null"],
    "worker/backends/null.py": ["import kombu", "import worker.backends.stable_diffusion"],
}


@pytest.mark.parametrize(("module", "line"), [(module, line) for module, lines in FORBIDDEN.items() for line in lines])
def test_a_forbidden_import_breaks_the_check(tmp_path: Path, module: str, line: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("starter", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / module
    planted.write_text(f"{line}\n{planted.read_text()}")

    check = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert check.returncode == 1, check.stdout
    assert "BROKEN" in check.stdout


def test_only_process_entries_read_the_environment() -> None:
    entries = {ROOT / "api/main.py", ROOT / "worker/main.py", ROOT / "compose/cli.py", ROOT / "shared/settings.py"}
    entries |= {ROOT / "worker/housekeeper/main.py", ROOT / "worker/alive.py"}
    # These hand their environment on; they read nothing in it.
    entries |= {ROOT / "compose/supervisor.py", ROOT / "compose/dashboard.py"}
    # What the terminal says of its colours is no setting.
    entries |= {ROOT / "compose/voice.py"}

    readers = {
        path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "os.environ" in path.read_text()
    }

    assert readers <= entries


def test_no_engine_looks_at_a_clock_that_can_be_set() -> None:
    engines = (ROOT / "worker/backends").rglob("*.py")

    assert [path for path in engines if re.search(r"time\.time|\.now\(|\.utcnow\(|\.today\(", path.read_text())] == []


def test_every_row_about_security_names_tests_that_there_are() -> None:
    lines = (ROOT / "docs/security.md").read_text().splitlines()
    start = lines.index("| what | control | test |") + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    named = [re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row.split("|")[3]) for row in rows]

    assert all(named)
    assert [(path, test) for path, test in itertools.chain(*named) if not _holds(path, test)] == []


def _holds(path: str, test: str) -> bool:
    return (ROOT / path).exists() and f"\ndef {test or 'test_'}" in (ROOT / path).read_text()


def test_what_is_vendored_is_what_it_says() -> None:
    for table in ROOT.glob("api/*/vendor.toml"):
        folder = table.parent
        files = {
            name: file["sha256"]
            for package in tomllib.loads(table.read_text()).values()
            for name, file in package["files"].items()
            if package["version"] and package["licence"] and file["licence"]
        }
        found = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path != table}
        assert found == files
        assert "LICENSE" in files
