"""Everything that /openapi.json describes, asked in every way that schemathesis can think of."""

import os
import subprocess
import sys
from pathlib import Path

from tests.api.clients import KEYS, PRIORITY
from tests.stack import Stack

HERE = Path(__file__).parent
SETTINGS = {
    "SD_BACKENDS": "null",
    "SD_API_KEY": KEYS,
    # Small images, and none of the limits that tests/api/edge/test_rate_limits.py is about.
    "SD_MAX_PIXELS": "16384",
    "SD_REQUESTS_PER_SECOND": "0",
    "SD_MAX_JOBS_PER_KEY": "0",
}


def test_no_request_finds_a_bug_a_hang_or_an_answer_that_is_not_described(redis_url: str, tmp_path: Path) -> None:
    with Stack(redis_url, tmp_path, **SETTINGS) as stack:
        stack.start_worker("null")
        stack.start_api()

        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", HERE / "schemathesis.toml"]
        # Who may ask for all that a request can ask for.
        told = {"KEY": PRIORITY, "CHECKS": str(HERE / "checks.py")}
        run = subprocess.run(
            [*command, "run", f"{stack.api.url}/openapi.json"],
            cwd=tmp_path,
            env=os.environ | told,
            capture_output=True,
            text=True,
            check=False,
        )

        assert run.returncode == 0, run.stdout + run.stderr
        assert "Traceback" not in stack.api.process.output + stack.worker.output
