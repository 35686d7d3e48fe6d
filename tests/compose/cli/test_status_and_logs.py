"""`imagegen status` and `imagegen logs`."""

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import requests
from rich.console import Console

from compose.cli.terminal import create_console, create_table
from compose.launcher.log_files import NAME
from tests.compose.conftest import Launched
from tests.stack import Stack, free_port
from tests.support.polling import wait_until
from tests.support.process import Process


def logs(service: Launched, *options: str) -> list[str]:
    result = service.run("logs", "--no-follow", *options)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_logs_are_filtered_by_process_and_job(service: Launched) -> None:
    job = service.generate().json()["id"]

    # The worker logs the end after it has recorded it, which the answer waits for.
    wait_until(lambda: logs(service, "worker-null", "--job", job))
    lines = logs(service, "worker-null", "--job", job)

    assert len(lines) == 1
    assert lines[0].lstrip().startswith("worker-null │ ")
    assert f"job {job} succeeded" in lines[0]
    assert logs(service, "api", "--job", job) == []


def test_logs_contain_lines_that_were_not_printed(service: Launched) -> None:
    lines = logs(service, "redis", "imagegen", "-n", "1000")

    assert any("Ready to accept connections" in line for line in lines)
    assert "Ready to accept connections" not in service.launcher.output
    assert any("starting redis" in line for line in lines)
    assert len(logs(service, "redis", "-n", "2")) == 2


def test_logs_follow_new_lines(service: Launched) -> None:
    following = service.cli("logs", "worker-null", "--follow", "-n", "1")
    following.wait_for("worker-null")

    job = service.generate().json()["id"]

    following.wait_for(f"job {job} succeeded", seconds=10)
    following.send(signal.SIGINT)
    assert following.wait() == 0
    assert "Traceback" not in following.output


def test_logs_of_an_unknown_process_or_before_the_first_start(service: Launched, tmp_path: Path) -> None:
    unknown = service.run("logs", "wroker")
    nothing = Process([sys.executable, "-m", "compose.cli.app", "logs", "--follow"], tmp_path)

    assert (unknown.exit_code, nothing.wait()) == (1, 1)
    assert "wroker is not a process: choose from imagegen, redis, api," in unknown.output
    assert "imagegen up" in nothing.output


def test_logs_that_cannot_be_read_are_not_taken_for_empty_ones(tmp_path: Path) -> None:
    # Instead of a file of another user, which root may read.
    file = tmp_path / "data/logs" / NAME
    file.mkdir(parents=True)

    process = Process([sys.executable, "-m", "compose.cli.app", "logs"], tmp_path)

    assert process.wait() == 1
    assert process.output == f"{file}: Is a directory."


def test_logs_contain_no_control_characters(tmp_path: Path) -> None:
    folder = tmp_path / "data/logs"
    folder.mkdir(parents=True)
    (folder / NAME).write_text("2026-11-23T12:00:00.000+00:00 api \x1b[2Jgone\x07 [bold]loud[/]\n")

    process = Process([sys.executable, "-m", "compose.cli.app", "logs"], tmp_path)

    assert process.wait() == 0
    assert process.output.strip() == "api │  [2Jgone  [bold]loud[/]"


def test_logs_as_json_have_the_time_at_which_each_line_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "data/logs"
    folder.mkdir(parents=True)
    entry = '{"time": "2026-11-23T12:00:00.001+00:00", "level": "info", "message": "made"}'
    (folder / NAME).write_text(
        f"2026-11-23T12:00:00.002+00:00 api {entry}\n2026-11-23T12:00:03.000+00:00 redis Ready\n"
    )

    process = Process([sys.executable, "-m", "compose.cli.app", "logs"], tmp_path, {"SD_LOG_FORMAT": "json"})

    assert process.wait() == 0
    assert [json.loads(line) for line in process.lines] == [
        {"service": "api", **json.loads(entry)},
        {"service": "redis", "time": "2026-11-23T12:00:03.000+00:00", "level": "info", "message": "Ready"},
    ]


def test_status_lists_backends_and_workers(service: Launched) -> None:
    result = service.run("status")

    assert result.exit_code == 0, result.output
    assert "imagegen 0.1.0  ok  Redis responds" in result.output
    (backend,) = [line for line in result.output.splitlines() if line.startswith("null ")]
    assert backend.split()[:2] == ["null", "ready"]
    assert any(line.startswith("null@") and "ready" in line for line in result.output.splitlines())
    assert "flux-local" not in result.output, "unconfigured backends are hidden"


def test_tables_are_not_cut_on_narrow_terminals_nor_broken_in_pipes() -> None:
    name = "black-forest-labs/FLUX.2-klein-4B"
    table = create_table("model", "state")
    state = "broken: the file of its weights is incomplete"
    table.add_row(name, state)
    narrow, piped = StringIO(), StringIO()

    Console(file=narrow, width=30).print(table)
    with redirect_stdout(piped):
        create_console().print(table)

    assert "…" not in narrow.getvalue()
    assert piped.getvalue().splitlines()[1] == f"{name}  {state}"


def test_status_as_json(service: Launched) -> None:
    result = service.run("status", "--json")

    assert result.exit_code == 0
    report = json.loads(result.output)
    assert (report["health"]["status"], report["jobs"]) == ("ok", [])
    assert {backend["name"]: backend["status"] for backend in report["backends"]}["null"] == "ready"


def test_status_on_a_terminal_shows_running_jobs_until_interrupted(service: Launched) -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, **service.settings, "TERM": "xterm", "COLUMNS": "160"}
    command = [sys.executable, "-m", "compose.cli.app", "status"]
    process = subprocess.Popen(
        command, cwd=service.folder, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    try:
        seen = read_until(master, "ready")
        body = {"prompt": "x", "label": "a [red]label", "metadata": {"simulate": {"seconds": 30}}}
        job = requests.post(f"{service.url}/api/jobs", json=body, timeout=10).json()["id"]
        seen += read_until(master, "a [red]label")
        assert f"job {job}" in seen
        requests.delete(f"{service.url}/api/jobs/{job}", timeout=10)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        os.close(master)


def read_until(terminal: int, text: str) -> str:
    seen = ""
    with suppress(OSError):
        while text not in seen:
            seen += os.read(terminal, 65_536).decode(errors="replace")
    assert text in seen
    return seen


def test_status_without_a_service_says_how_to_start_it(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    process = Process([sys.executable, "-m", "compose.cli.app", "status", "--url", url], tmp_path)

    assert process.wait() == 1
    assert f"No service responds at {url}. Start it with `imagegen up`" in process.output


def test_status_fails_unless_the_service_is_ok(stack: Stack, tmp_path: Path) -> None:
    api = stack.start_api(SD_BACKENDS="null", SD_DEFAULT_BACKEND="sd")
    command = [sys.executable, "-m", "compose.cli.app", "status", "--once", "--url"]
    degraded, not_the_api = (Process([*command, url], tmp_path) for url in (api.url, f"{api.url}/docs"))

    assert (degraded.wait(), not_the_api.wait()) == (1, 1)
    assert "degraded" in degraded.output
    assert "sd: requests without a backend are refused, because SD_DEFAULT_BACKEND is not in SD_B" in degraded.output
    refused = requests.post(f"{api.url}/api/txt2img", json={"prompt": "x"}, timeout=10).json()
    assert refused["detail"] == "No worker serves sd (SD_DEFAULT_BACKEND); this service has: null."
    assert "Traceback" not in degraded.output + not_the_api.output
