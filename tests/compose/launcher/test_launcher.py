import signal
from contextlib import suppress

import psutil
import pytest
import requests

from compose.launcher.data_folder import REDIS_URL
from tests.compose.conftest import STOP_SECONDS, Launch, Launched
from tests.polling import wait_until
from tests.stack import free_port


def test_one_command_starts_a_service_that_generates_images(service: Launched) -> None:
    answer = service.generate()

    assert answer.json()["state"] == "succeeded"
    assert "/api/txt2img" in service.launcher.output
    assert (service.folder / "outputs").is_dir()


def test_the_dashboard_shows_the_worker(service: Launched) -> None:
    wait_until(lambda: "null@" in requests.get(f"http://127.0.0.1:{service.flower_port}/workers", timeout=10).text)


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_in_order(launch: Launch, number: signal.Signals) -> None:
    launched = launch().is_ready()
    processes = launched.descendants()

    launched.launcher.send(number)

    assert launched.launcher.wait(STOP_SECONDS) == 0
    assert not [process for process in processes if is_alive(process)]
    stops = [launched.launcher.output.index(text) for text in ("Warm shutdown", "bye bye", "nothing is left running")]
    assert stops == sorted(stops)


def test_a_killed_launcher_leaves_no_process_behind(launch: Launch) -> None:
    launched = launch().is_ready()
    processes = launched.descendants()
    assert len(processes) >= 5

    launched.launcher.send(signal.SIGKILL)
    launched.launcher.wait()

    _, left = psutil.wait_procs(processes, timeout=STOP_SECONDS)
    assert not left


def test_a_process_that_dies_is_restarted_and_loses_no_job(launch: Launch) -> None:
    launched = launch().is_ready()
    before = launched.generate().json()
    for part in ("api.main", "worker.main worker", "valkey-server"):
        launched.service(part).kill()
    deaths = [f"{name} │ ended unexpectedly" for name in ("redis", "api", "worker-null")]
    launched.launcher.wait_for(*deaths, "Uvicorn running on", "null@")

    after = requests.get(f"{launched.url}{before['links']['self']}", timeout=10).json()

    assert after["images"] == before["images"]
    assert launched.generate().json()["state"] == "succeeded"


def test_jobs_survive_a_restart_of_everything(launch: Launch) -> None:
    first = launch().is_ready()
    job = first.generate().json()
    first.launcher.stop(STOP_SECONDS)

    second = launch().is_ready()
    known = requests.get(f"{second.url}{job['links']['self']}", timeout=10).json()

    assert known["id"] == job["id"]
    assert known["state"] == "succeeded"


def test_a_port_in_use_is_refused_in_one_sentence(service: Launched, launch: Launch) -> None:
    other = launch(SD_PORT=str(service.port))

    assert other.launcher.wait() == 1
    assert "SD_PORT=" in other.launcher.output
    assert "Traceback" not in other.launcher.output


def test_two_services_never_share_a_data_folder(service: Launched, launch: Launch) -> None:
    other = launch(SD_DATA_DIR=str(service.folder / "data"))

    assert other.launcher.wait() == 1
    assert "already running with SD_DATA_DIR" in other.launcher.output
    assert (service.folder / "data" / REDIS_URL).exists(), "commands still find the running service"


def test_a_model_that_cannot_be_loaded_ends_the_start_with_the_reason(launch: Launch) -> None:
    launched = launch(SD_BACKENDS="sd", SD_MODEL_ID="/no/such/folder")

    assert launched.launcher.wait() == 1
    assert "SD_MODEL_ID is /no/such/folder" in launched.launcher.output
    assert "worker-sd could not start" in launched.launcher.output
    assert "Traceback" not in launched.launcher.output


def test_a_wrong_setting_is_named(launch: Launch) -> None:
    launched = launch(SD_PORT="eighty")

    assert launched.launcher.wait() == 1
    assert "SD_PORT is wrong" in launched.launcher.output
    assert "Traceback" not in launched.launcher.output


def test_the_dashboard_needs_a_login_on_the_network(launch: Launch) -> None:
    launched = launch(SD_HOST="0.0.0.0", SD_API_KEY="0123456789abcdef", SD_FLOWER_PORT=str(free_port()))

    assert launched.launcher.wait() == 1
    assert "SD_FLOWER_BASIC_AUTH" in launched.launcher.output
