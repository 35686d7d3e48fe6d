"""`imagegen doctor` as it is called."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from compose.doctor.examination import CHECKS, Check, Result, examine
from compose.doctor.findings import Finding, ok, problem
from compose.doctor.report import print_json, print_results
from compose.doctor.secrets import Secrets
from compose.doctor.surroundings import Surroundings
from tests.compose.conftest import Launched
from tests.compose.doctor.surroundings import around
from tests.stack import Process, free_port, valkey_server
from tests.worker.engines.bfl.provider import provider, refused


def doctor(folder: Path, *options: str, **settings: str) -> Process:
    settings = {"SD_PORT": str(free_port()), "SD_FLOWER_PORT": "0", "SD_BACKENDS": "null", **settings}
    process = Process([sys.executable, "-m", "compose.cli.app", "doctor", *options], folder, **settings)
    process.wait()
    return process


def told(process: Process) -> dict[str, list[Any]]:
    """What each check has found: pairs of level and detail."""
    checks: dict[str, list[Any]] = {}
    for finding in json.loads(process.output)["findings"]:
        checks.setdefault(finding["check"], []).append((finding["level"], finding["detail"]))
    return checks


def test_a_machine_on_which_all_is_well_passes_before_the_service_was_ever_started(tmp_path: Path) -> None:
    process = doctor(tmp_path, SD_BACKENDS="sd")

    assert process.wait() == 0
    assert "All is well." in process.output
    assert "computes on the CPU, which is enough for the starter model" in process.output or "cuda" in process.output
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"


def test_every_check_tells_something(tmp_path: Path) -> None:
    process = doctor(tmp_path, "--json")

    assert list(told(process)) == [check.name for check in CHECKS]
    assert json.loads(process.output)["healthy"]


def test_a_running_service_passes(service: Launched) -> None:
    process = service.cli("doctor", "--json")

    assert process.wait() == 0, process.output
    checks = told(process)
    assert checks["ports"] == [
        ("ok", f"The API answers on port {service.port}."),
        ("ok", f"The dashboard answers on port {service.flower_port}."),
    ]
    assert checks["workers"] == [("ok", "null is served by 1 worker; 0 jobs wait.")]
    assert "append-only, without eviction" in checks["redis"][0][1]
    assert checks["clock"] == [("ok", "The clock agrees with that of Redis.")]


def test_a_wrong_setting_is_the_one_thing_that_is_told(tmp_path: Path) -> None:
    process = doctor(tmp_path, SD_PORT="eighty")

    assert process.wait() == 1
    assert "✗ settings  SD_PORT is wrong" in process.output
    assert process.output.endswith("1 problem, 0 warnings.")


def test_no_secret_is_ever_told(tmp_path: Path) -> None:
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
def test_what_quotes_a_secret_is_told_without_it(
    as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = '5ecret-"with\\quotes'
    settings = around(tmp_path, bfl_api_key=secret).settings
    settings = settings.model_copy(update={"redis_url": "redis://:5ecret%2Dpassword@host/0"})
    quoting = problem(f"refused: {secret} at host", "not 5ecret-password or 5ecret%2Dpassword")
    results, secrets = [Result("some", (quoting,))], Secrets.of(settings, "5ecret-token")

    told = print_json(results, "1", secrets) if as_json else print_results(results, Console(), secrets)

    assert not told
    output = capsys.readouterr().out
    assert "refused: *** at host" in output
    assert "not *** or ***" in output
    assert "5ecret" not in output


def test_the_doctor_itself_loads_no_model_library(tmp_path: Path) -> None:
    script = "import sys, compose.doctor.command; assert not {'torch', 'numpy', 'diffusers'} & set(sys.modules)"

    process = Process([sys.executable, "-c", script], tmp_path)

    assert process.wait() == 0, process.output


def test_what_hangs_or_breaks_off_holds_up_nobody(tmp_path: Path) -> None:
    def hang(_: Surroundings) -> Iterator[Finding]:
        threading.Event().wait()
        yield ok("never")

    def break_off(_: Surroundings) -> Iterator[Finding]:
        raise RuntimeError("5ecret")
        yield ok("never")

    def go_well(_: Surroundings) -> Iterator[Finding]:
        yield ok("well")

    begin = time.monotonic()
    checks = [Check("hang", hang, 0.3), Check("break", break_off), Check("well", go_well)]
    results = {result.check: result.findings[0].detail for result in examine(around(tmp_path), checks)}

    assert results == {
        "hang": "This check did not end within 0.3 s.",
        "break": "This check broke off: RuntimeError.",
        "well": "well",
    }
    assert time.monotonic() - begin < 5
