"""`imagegen doctor` on the command line."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from compose.doctor.check_runner import CHECKS, Check, CheckResult, run_checks
from compose.doctor.findings import Finding, ok, problem
from compose.doctor.installation import Installation
from compose.doctor.report import print_json, print_results
from shared.access.secrets import Secrets
from tests.compose.conftest import Launched
from tests.compose.doctor.installations import installation
from tests.stack import free_port, valkey_server
from tests.support.process import Process
from tests.worker.engines.bfl.provider import provider, refused


def doctor(folder: Path, *options: str, **settings: str) -> Process:
    settings = {"SD_PORT": str(free_port()), "SD_FLOWER_PORT": "0", "SD_BACKENDS": "null", **settings}
    process = Process([sys.executable, "-m", "compose.cli.app", "doctor", *options], folder, settings)
    process.wait()
    return process


def findings_by_check(process: Process) -> dict[str, list[Any]]:
    """Level and detail of each finding, by check."""
    checks: dict[str, list[Any]] = {}
    for finding in json.loads(process.output)["findings"]:
        checks.setdefault(finding["check"], []).append((finding["level"], finding["detail"]))
    return checks


def test_a_healthy_machine_passes_before_the_first_start(tmp_path: Path) -> None:
    process = doctor(tmp_path, SD_BACKENDS="sd")

    assert process.wait() == 0
    assert "All is well." in process.output
    assert "computes on the CPU, which is enough for the starter model" in process.output or "cuda" in process.output
    assert not list(tmp_path.iterdir()), "doctor writes no file"


def test_every_check_reports_a_finding(tmp_path: Path) -> None:
    process = doctor(tmp_path, "--json")

    assert list(findings_by_check(process)) == [check.name for check in CHECKS]
    assert json.loads(process.output)["healthy"]


def test_a_running_service_passes(service: Launched) -> None:
    process = service.cli("doctor", "--json")

    assert process.wait() == 0, process.output
    checks = findings_by_check(process)
    assert checks["ports"] == [
        ("ok", f"The API responds on port {service.port}."),
        ("ok", f"Flower responds on port {service.flower_port}."),
    ]
    assert checks["workers"] == [("ok", "Workers of null: 1; jobs queued: 0.")]
    assert "append-only, without eviction" in checks["redis"][0][1]
    assert checks["clock"] == [("ok", "The clock agrees with the clock of Redis.")]


def test_a_wrong_setting_is_the_only_finding(tmp_path: Path) -> None:
    process = doctor(tmp_path, SD_PORT="eighty")

    assert process.wait() == 1
    assert "✗ settings  SD_PORT is wrong" in process.output
    assert process.output.endswith("1 problem, 0 warnings.")


def test_the_report_contains_no_secret(tmp_path: Path) -> None:
    secrets = {
        "SD_API_KEY": "n8n:0123456789abcdef-api",
        "SD_BFL_API_KEY": "5ecret-bfl-key",
        "SD_HUGGINGFACE_TOKEN": "hf_5ecretNoToken",
        "SD_FLOWER_BASIC_AUTH": "user:5ecret-flower",
        "SD_WEBHOOK_SECRET": "whsec_NWVjcmV0LTVlY3JldC01ZWNyZXQtNWVjcmV0",
        "SD_WEBHOOK_HEADER": "X-Token: 5ecret-header",
    }
    with provider() as bfl, valkey_server(tmp_path, "--requirepass", "other") as url:
        bfl.credits = refused(403, "Not authenticated: 5ecret-bfl-key")
        redis_url = f"unix://:5ecret%2Dpassword@{url.removeprefix('unix://')}"
        settings = {"SD_BACKENDS": "flux-api", "SD_BFL_BASE_URL": bfl.api_url, "SD_REDIS_URL": redis_url, **secrets}

        outputs = [doctor(tmp_path, *options, **settings).output for options in ([], ["--json"])]

    for output in outputs:
        assert "refuses the login" in output
        assert "refuses SD_BFL_API_KEY (HTTP 403)" in output
        assert "5ecret" not in output
        assert "0123456789abcdef-api" not in output
        assert "NWVjcmV0" not in output


@pytest.mark.parametrize("as_json", [False, True])
def test_a_finding_that_quotes_a_secret_is_redacted(
    as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = '5ecret-"with\\quotes'
    settings = installation(tmp_path, bfl_api_key=secret).settings
    settings = settings.model_copy(update={"redis_url": "redis://:5ecret%2Dpassword@host/0"})
    quoting = problem(f"refused: {secret} at host", "not 5ecret-password or 5ecret%2Dpassword")
    results, secrets = [CheckResult("some", (quoting,))], Secrets.of(settings, "5ecret-token")

    is_healthy = print_json(results, "1", secrets) if as_json else print_results(results, Console(), secrets)

    assert not is_healthy
    output = capsys.readouterr().out
    assert "refused: *** at host" in output
    assert "not *** or ***" in output
    assert "5ecret" not in output


def test_the_doctor_loads_no_model_library(tmp_path: Path) -> None:
    script = "import sys, compose.doctor.command; assert not {'torch', 'numpy', 'diffusers'} & set(sys.modules)"

    process = Process([sys.executable, "-c", script], tmp_path)

    assert process.wait() == 0, process.output


def test_a_check_that_hangs_or_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    def hang(_: Installation) -> Iterator[Finding]:
        threading.Event().wait()
        yield ok("never")

    def broken() -> str:
        raise RuntimeError("5ecret")

    def fail(_: Installation) -> Iterator[Finding]:
        yield ok(broken())

    def succeed(_: Installation) -> Iterator[Finding]:
        yield ok("well")

    begin = time.monotonic()
    checks = [Check("hang", hang, 0.3), Check("break", fail), Check("well", succeed)]
    results = {result.check: result.findings[0].detail for result in run_checks(installation(tmp_path), checks)}

    assert results == {
        "hang": "This check did not finish within 0.3 s.",
        "break": "This check failed: RuntimeError.",
        "well": "well",
    }
    assert time.monotonic() - begin < 60
