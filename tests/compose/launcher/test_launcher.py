"""`imagegen up` starts, supervises and stops the whole service."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from compose.launcher.data_folder import REDIS_URL
from tests.compose.conftest import STOP_SECONDS, Launch, Launched
from tests.shared.webhooks.receiver import Receiver, receiving
from tests.stack import Stack, free_port
from tests.support.polling import wait_until
from tests.support.process import Process


def test_one_command_starts_a_service_that_generates_images(service: Launched) -> None:
    response = service.generate()

    assert response.json()["state"] == "succeeded"
    assert "/api/txt2img" in service.launcher.output
    assert f"Studio     http://localhost:{service.port}\n" in service.launcher.output
    assert (service.folder / "outputs").is_dir()


def test_a_start_waits_for_no_module_of_other_commands_and_processes() -> None:
    others = {"requests", "psutil", "rich", "redis", "celery", "fastapi", "asyncio", "numpy", "worker.models.sources"}
    code = f"import sys, compose.cli.app, compose.launcher.up; print(sorted({others} & sys.modules.keys()))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert loaded.stdout == "[]\n"


def test_the_dashboard_shows_the_worker(service: Launched) -> None:
    wait_until(lambda: "null@" in requests.get(f"http://127.0.0.1:{service.flower_port}/workers", timeout=10).text)
    studio = requests.get(service.url, headers={"accept": "text/html"}, timeout=10).text
    assert f'data-flower-port="{service.flower_port}"' in studio


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def assert_stops_in_order(launched: Launched, number: signal.Signals) -> None:
    processes = launched.descendants()

    launched.launcher.send(number)

    assert launched.launcher.wait(STOP_SECONDS) == 0
    assert not [process for process in processes if is_alive(process)]
    messages = ("Warm shutdown", "bye bye", "nothing is left running")
    positions = [launched.launcher.output.rindex(message) for message in messages]
    assert positions == sorted(positions)


def test_a_service_without_a_model_is_four_programs_because_the_housekeeper_runs_beside_the_api(
    service: Launched,
) -> None:
    programs = ("api_and_housekeeper", "worker.main null", "valkey-server", "flower_app")
    commands = [" ".join(process.cmdline()) for process in service.descendants()]

    # The guard of the process group is a shell; the worker has a child.
    assert sorted(next(part for part in (*programs, "/bin/sh") if part in command) for command in commands) == sorted(
        (*programs, "worker.main null", "/bin/sh")
    )
    assert "the housekeeper is ready" in service.launcher.output


def test_the_api_does_not_go_on_without_its_housekeeper(redis_url: str, tmp_path: Path) -> None:
    main = "compose.launcher.api_and_housekeeper as main"
    code = f"import {main}; main.Housekeeper.run = lambda self: self.unforeseen; main.main()"
    with Stack(redis_url, tmp_path, SD_PORT=str(free_port())) as stack:
        process = stack.run([sys.executable, "-c", code])

        process.wait()

        assert "AttributeError" in process.output


def test_a_process_that_dies_is_restarted_and_loses_no_job_until_ctrl_c_stops_everything(
    launch: Launch, receiver: Receiver
) -> None:
    launched = launch(SD_WEBHOOK_ALLOW=receiver.origin).is_ready()
    before = launched.generate().json()
    for part in ("api_and_housekeeper", "worker.main", "valkey-server"):
        launched.service(part).kill()
    deaths = [f"{name} │ ended unexpectedly" for name in ("redis", "api", "worker-null")]
    launched.launcher.wait_for(*deaths, "Uvicorn running on", "null@")

    after = requests.get(f"{launched.url}{before['links']['self']}", timeout=10).json()

    assert after["images"] == before["images"]
    assert launched.generate(webhook_url=receiver.url).json()["state"] == "succeeded"
    receiver.until("succeeded")
    assert_stops_in_order(launched, signal.SIGINT)


def test_jobs_survive_a_restart_and_a_killed_launcher_leaves_no_process_behind(launch: Launch) -> None:
    first = launch().is_ready()
    job = first.generate().json()
    # What a closed terminal sends; monitoring/test_logs.py stops a service with SIGTERM.
    assert_stops_in_order(first, signal.SIGHUP)

    second = launch().is_ready()
    known = requests.get(f"{second.url}{job['links']['self']}", timeout=10).json()
    assert (known["id"], known["state"]) == (job["id"], "succeeded")
    processes = second.descendants()
    assert len(processes) >= 4

    second.launcher.send(signal.SIGKILL)
    second.launcher.wait()

    _, left = psutil.wait_procs(processes, timeout=STOP_SECONDS)
    assert not left


#: Python prints each module that it has imported.
TRACED = {"PYTHONPROFILEIMPORTTIME": "1"}


def test_ctrl_c_while_modules_load_prints_no_traceback(tmp_path: Path) -> None:
    command = Process([sys.executable, "-m", "compose.cli", "doctor"], tmp_path, TRACED)
    command.wait_for("click.core")

    command.send(signal.SIGINT)

    assert command.wait() != 0
    assert "KeyboardInterrupt" not in command.output


def test_ctrl_c_reaches_the_supervisor_before_it_has_loaded(launch: Launch) -> None:
    launched = launch(**TRACED)
    # First by the command, then by the interpreter that takes its place.
    launched.launcher.wait_for("| zipimport")
    launched.launcher.wait_for("| zipimport")

    launched.launcher.send(signal.SIGINT)

    assert launched.launcher.wait() == 0
    assert "nothing is left running" in launched.launcher.output
    assert not list(Path(launched.settings["TMPDIR"]).iterdir())


def test_a_port_in_use_is_refused_in_one_sentence(service: Launched, launch: Launch) -> None:
    other = launch(SD_PORT=str(service.port))

    assert other.launcher.wait() == 1
    assert "SD_PORT=" in other.launcher.output
    assert "Traceback" not in other.launcher.output


@pytest.mark.parametrize("port", ["same", "other"])
def test_two_services_never_share_a_data_folder(port: str, service: Launched, launch: Launch) -> None:
    ports = {"SD_PORT": str(service.port)} if port == "same" else {}
    other = launch(SD_DATA_DIR=str(service.folder / "data"), **ports)

    assert other.launcher.wait() == 1
    assert "already running with SD_DATA_DIR" in other.launcher.output
    assert (service.folder / "data" / REDIS_URL).exists(), "commands still find the running service"


def test_a_start_that_fails_stops_the_others_and_ends_with_the_reason(launch: Launch) -> None:
    launched = launch(SD_BACKENDS="sd,null", SD_MODEL_ID="/no/such/folder")

    assert launched.launcher.wait() == 1
    assert "SD_MODEL_ID is /no/such/folder" in launched.launcher.output
    assert launched.launcher.lines[-1].startswith("worker-sd could not start (exit code")
    assert "Traceback" not in launched.launcher.output


def test_the_dashboard_needs_a_login_on_the_network(launch: Launch) -> None:
    launched = launch(SD_HOST="0.0.0.0", SD_API_KEY="0123456789abcdef", SD_FLOWER_PORT=str(free_port()))

    assert launched.launcher.wait() == 1
    assert "SD_FLOWER_BASIC_AUTH" in launched.launcher.output
