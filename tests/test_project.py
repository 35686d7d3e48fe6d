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
    "api/native/health.py": ["import torch", "import PIL.Image", "import numpy", "import worker.jobs.runner"],
    "api/intake/uploads.py": ["import api.delivery.events", "import api.native.jobs"],
    "api/delivery/events.py": ["import api.native.jobs"],
    "api/edge/hosts.py": ["import api.intake.admission", "import api.delivery.events", "import api.native.jobs"],
    "api/problems.py": ["import api.edge.hosts"],
    "shared/access/api_keys.py": ["import shared.storage.images"],
    "shared/errors.py": ["import shared.jobs.requests"],
    "shared/jobs/operations.py": ["import shared.storage.images"],
    "shared/models/capabilities.py": ["import shared.redis.store"],
    "shared/net/outbound.py": ["import shared.jobs.requests"],
    "shared/observability/logs.py": ["import shared.storage.images"],
    "shared/redis/store.py": ["import shared.jobs.operations", "import shared.storage.images"],
    "shared/settings/service.py": ["import shared.redis.store", "import celery"],
    "shared/storage/images.py": ["import diffusers", "import fastapi", "import api.app", "import shared.redis.store"],
    "shared/webhooks/outbox.py": ["import shared.storage.images"],
    "shared/workers/records.py": ["import shared.storage.images"],
    "compose/cli/client.py": ["import transformers"],
    "compose/container/changed_settings.py": ["import compose.launcher.up"],
    "compose/doctor/command.py": ["import compose.cli.app"],
    "compose/launcher/up.py": ["import compose.doctor.command"],
    "worker/app.py": ["import starlette.requests", "import uvicorn", "import api.app"],
    "worker/process/cpus.py": ["import worker.app", "import worker.housekeeper.app"],
    "worker/housekeeper/leases.py": ["import worker.child", "import worker.process.cpus", "import torch"],
    "worker/records/redis_job_store.py": ["import worker.process.cpus", "import torch"],
    "worker/jobs/runner.py": ["import celery", "import redis", "import worker.records.redis_job_store", "import torch"],
    "worker/engines/bfl/engine.py": ["import redis", "import worker.engines.null", "import worker.jobs.runner"],
    "worker/engines/null.py": ["import kombu", "import worker.engines.diffusers.stable_diffusion"],
    "worker/images/png.py": ["import worker.engines.base", "import torch"],
    "worker/models/sources.py": ["import worker.engines.base", "import torch"],
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages, to plant imports in."""
    folder = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("starter", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize(("module", "line"), [(module, line) for module, lines in FORBIDDEN.items() for line in lines])
def test_a_forbidden_import_breaks_the_check(copy: Path, module: str, line: str) -> None:
    planted, source = copy / module, (ROOT / module).read_text()
    planted.write_text(f"{line}\n{source}")
    try:
        check = subprocess.run(
            [Path(sys.executable).parent / "lint-imports"],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        planted.write_text(source)

    assert check.returncode == 1, check.stdout
    assert "BROKEN" in check.stdout


def test_each_room_has_its_neighbours_checked() -> None:
    rooms = {path.parent for package in PACKAGES for path in (ROOT / package).glob("*/__init__.py")}

    assert rooms == {(ROOT / module).parent for module in FORBIDDEN if (ROOT / module).parent.name not in PACKAGES} - {
        ROOT / "worker/engines/bfl"
    } | {ROOT / "worker/engines"}


def test_only_process_entries_read_the_environment() -> None:
    entries = {
        ROOT / "api/main.py",
        ROOT / "worker/main.py",
        ROOT / "compose/cli/app.py",
        ROOT / "shared/settings/loading.py",
    }
    entries |= {ROOT / "worker/housekeeper/main.py", ROOT / "worker/alive.py"}
    # These hand their environment on; they read nothing in it.
    entries |= {ROOT / "compose/launcher/supervisor.py", ROOT / "compose/launcher/flower.py"}
    # What the terminal says of its colours is no setting.
    entries |= {ROOT / "compose/launcher/console.py"}

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
    for table in ROOT.glob("api/**/vendor.toml"):
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
