"""What holds for the whole repository: who imports whom, sizes, and what documents say of tests."""

import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from hashlib import sha256
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("api", "worker", "shared", "compose")
MOST_LINES, MOST_ENTRIES = 300, 12
#: How a file over the limit begins; the reason follows.
LONG = "# Over 300 lines: "

FORBIDDEN = {
    "api/native/health.py": ["import torch", "import PIL.Image", "import numpy", "import worker.jobs.runner"],
    "api/intake/uploads.py": ["import api.delivery.events", "import api.native.jobs"],
    "api/delivery/events.py": ["import api.native.jobs"],
    "api/studio/page.py": ["import api.native.jobs"],
    "api/edge/hosts.py": ["import api.intake.admission", "import api.delivery.events", "import api.native.jobs"],
    "api/models/offered.py": ["import api.intake.admission", "import api.services"],
    "api/protocols/openai/errors.py": ["import api.native.jobs", "import api.protocols.huggingface.routes"],
    "api/problems.py": ["import api.edge.hosts"],
    "shared/access/api_keys.py": ["import shared.storage.images"],
    "shared/errors.py": ["import shared.jobs.requests"],
    "shared/jobs/operations.py": ["import shared.storage.images"],
    "shared/models/capabilities.py": ["import shared.redis.store"],
    "shared/net/outbound.py": ["import shared.jobs.requests"],
    "shared/observability/logs.py": ["import shared.storage.images"],
    "shared/protocols/replicate.py": ["import shared.storage.images"],
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
    "worker/engines/null.py": ["import kombu", "import worker.engines.diffusers.engine"],
    "worker/images/png.py": ["import worker.engines.base", "import torch"],
    "worker/models/sources.py": ["import worker.engines.base", "import torch"],
}

ENTRIES = {
    "api/main.py",
    "compose/cli/app.py",
    "compose/container/worker_group.py",
    "shared/settings/loading.py",
    "worker/alive.py",
    "worker/housekeeper/main.py",
    "worker/main.py",
    # Pass their environment on to processes that they start, or read what was passed.
    "compose/launcher/flower.py",
    "compose/launcher/flower_app.py",
    "compose/launcher/supervisor.py",
    # Colours of the terminal are no setting.
    "compose/launcher/console.py",
}


@pytest.fixture(scope="module")
def lint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What lint-imports says of a copy of the packages with every line of FORBIDDEN in it."""
    folder = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("starter", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for module, lines in FORBIDDEN.items():
        (folder / module).write_text("\n".join([*lines, (ROOT / module).read_text()]))
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("module", "line"), [(module, line) for module, lines in FORBIDDEN.items() for line in lines])
def test_the_check_refuses_a_forbidden_import(lint: str, module: str, line: str) -> None:
    importer = module.removesuffix(".py").replace("/", ".")
    number = FORBIDDEN[module].index(line) + 1
    external = line.removeprefix("import ")

    # Of an external package, the linter knows the first part of the name.
    names = {external, external.partition(".")[0]}
    assert any(re.search(rf"{re.escape(importer)} -> {re.escape(name)} \(l\.{number}\)", lint) for name in names)


def test_each_room_has_a_forbidden_import() -> None:
    rooms = {
        str(path.parent.relative_to(ROOT)) for package in PACKAGES for path in ROOT.glob(f"{package}/*/__init__.py")
    }
    covered = {"/".join(Path(module).parts[:2]) for module in FORBIDDEN}

    assert rooms - covered == set()


@pytest.mark.parametrize(
    ("check", "planted", "finding"),
    [
        ("codespell", "We recieved it.\n", "recieved ==> received"),  # codespell:ignore recieved
        ("codespell", "This is a picture.\n", "picture ==> image"),  # codespell:ignore picture
        ("vulture", "def never_called():\n    pass\n", "unused function 'never_called'"),
    ],
)
def test_the_check_refuses_words_and_dead_code(tmp_path: Path, check: str, planted: str, finding: str) -> None:
    (tmp_path / "planted.py").write_text(planted)

    command = [Path(sys.executable).parent / check, tmp_path / "planted.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert finding in done.stdout


def test_modules_import_each_other_without_cycles() -> None:
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)

    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the cycle


def test_a_long_file_begins_with_the_reason() -> None:
    too_long = [path for path in python_files() if len(path.read_text().splitlines()) > MOST_LINES]

    assert [str(path.relative_to(ROOT)) for path in too_long if not path.read_text().startswith(LONG)] == []


def test_no_package_is_a_long_list_of_modules() -> None:
    packages = {path.parent for path in python_files()}
    entries = {
        package: {*package.glob("*.py"), *(path.parent for path in package.glob("*/*.py"))} for package in packages
    }
    sizes = {
        package: len(found - {package / "__init__.py", package / "conftest.py"}) for package, found in entries.items()
    }

    assert {str(package.relative_to(ROOT)): size for package, size in sizes.items() if size > MOST_ENTRIES} == {}


def python_files() -> list[Path]:
    return [path for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py")]


def test_only_process_entries_read_the_environment() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    readers = {str(path.relative_to(ROOT)) for path in files if "os.environ" in path.read_text()}

    assert readers <= ENTRIES


def test_no_engine_reads_a_clock_that_can_be_set() -> None:
    engines = list((ROOT / "worker/engines").rglob("*.py"))

    assert engines
    assert [path for path in engines if re.search(r"time\.time|\.now\(|\.utcnow\(|\.today\(", path.read_text())] == []


def test_every_row_about_security_names_existing_tests() -> None:
    lines = (ROOT / "docs/security.md").read_text().splitlines()
    start = lines.index("| what | control | test |") + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    named = [re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row.split("|")[3]) for row in rows]

    assert all(named)
    assert [(path, test) for path, test in itertools.chain(*named) if not _holds(path, test)] == []


def _holds(path: str, test: str) -> bool:
    return (ROOT / path).exists() and f"\ndef {test or 'test_'}" in (ROOT / path).read_text()


def test_vendored_files_have_their_recorded_hashes() -> None:
    tables = [*ROOT.glob("api/**/vendor.toml"), *ROOT.glob("tests/**/vendor.toml")]

    assert len(tables) == 3
    for table in tables:
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
