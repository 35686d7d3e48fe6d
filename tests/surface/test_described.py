"""Schemathesis generates requests for everything in /openapi.json."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from api.protocols.mcp.openapi import TAG as MCP
from api.protocols.registration import ALL
from tests.api.clients import KEYS, PRIORITY
from tests.stack import Stack

HERE = Path(__file__).parent
SETTINGS = {
    "SD_BACKENDS": "null",
    "SD_API_KEY": KEYS,
    # Small images, and none of the limits that tests/api/edge/test_rate_limits.py tests.
    "SD_MAX_PIXELS": "16384",
    "SD_REQUESTS_PER_SECOND": "0",
    "SD_MAX_JOBS_PER_KEY": "0",
}


#: Paths of all protocols but the native one.
OTHER_PATHS = "^(" + "|".join(prefix for routes in ALL for prefix in routes.prefixes) + ")/"
OTHER_TAGS = (*(routes.tag for routes in ALL), MCP)
#: Two runs, because a run takes three seconds before its first request.
SELECTIONS = {
    "native": [f"--exclude-tag={tag}" for tag in OTHER_TAGS],
    "other-protocols": [f"--include-tag={tag}" for tag in OTHER_TAGS],
}


@pytest.fixture(scope="module")
def character_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of Unicode, which the first run writes and the others read."""
    return tmp_path_factory.mktemp("hypothesis")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS.keys())
def test_generated_requests_find_no_bug_hang_or_undocumented_answer(
    redis_url: str, tmp_path: Path, character_tables: Path, selection: list[str]
) -> None:
    with Stack(redis_url, tmp_path, **SETTINGS) as stack:
        stack.start_worker("null")
        stack.start_api()

        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")]
        # The key with the widest scope for requests.
        variables = {"KEY": PRIORITY, "CHECKS": str(HERE / "checks.py"), "OTHER_PATHS": OTHER_PATHS}
        variables["HYPOTHESIS_STORAGE_DIRECTORY"] = str(character_tables)
        run = subprocess.run(
            [*command, "run", f"{stack.api.url}/openapi.json", *selection],
            cwd=tmp_path,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )

        assert run.returncode == 0, run.stdout + run.stderr
        assert "Traceback" not in stack.api.process.output + stack.worker.output
