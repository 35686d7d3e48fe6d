"""A restart of containers applies changes in .env: both sides of it, without a container engine."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from compose.container.changed_settings import (
    FAMILIES,
    OF_COMPOSE,
    applies_on_restart,
    original_values,
    read_env,
    script,
    write,
)
from tests.support.polling import wait_until
from tests.support.process import Process

ROOT = Path(__file__).parents[3]
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
START = (ROOT / "compose/container/start.sh").read_text()
ENDS = "kill -TERM 1"

Started = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """start.sh with its settings in the test's folder; it creates a file instead of ending process 1."""
    path = tmp_path / "start.sh"
    folder = shlex.quote(str(tmp_path))
    path.write_text(START.replace("/settings", folder).replace(ENDS, f"touch {folder}/ended"))
    return path


@pytest.fixture
def started(start: Path, tmp_path: Path) -> Started:
    def run(family: str, old: dict[str, str], new: dict[str, str], **env: str) -> "subprocess.CompletedProcess[str]":
        (tmp_path / family).write_text(script(family, old, new))
        # The watcher would keep the output open.
        start.write_text(start.read_text().replace("(watch &)", ":"))
        command = ["/bin/sh", str(start), "/usr/bin/env"]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True)

    return run


@pytest.mark.parametrize("value", ["b", "it's", "$HOME `id` $(id)", 'a "b" \\ c', " x ", "é"])
def test_a_restart_applies_a_changed_setting_exactly_as_written(started: Started, value: str) -> None:
    done = started("worker", {"SD_MODEL_ID": "a"}, {"SD_MODEL_ID": value}, SD_MODEL_ID="a")

    assert f"SD_MODEL_ID={value}" in done.stdout.splitlines()
    assert done.stderr == ""


def test_a_restart_adds_new_settings_and_drops_removed_ones(started: Started) -> None:
    done = started("worker", {"SD_DEVICE": "cpu"}, {"SD_MODEL_ID": "b"}, SD_DEVICE="cpu", SD_DTYPE="float16")

    lines = done.stdout.splitlines()
    assert "SD_MODEL_ID=b" in lines
    assert "SD_DTYPE=float16" in lines
    assert not [line for line in lines if line.startswith("SD_DEVICE")]


def test_a_setting_from_the_shell_stays_and_a_message_says_so(started: Started) -> None:
    done = started("worker", {"SD_MODEL_ID": "a"}, {"SD_MODEL_ID": "b"}, SD_MODEL_ID="of the shell")

    assert "SD_MODEL_ID=of the shell" in done.stdout.splitlines()
    assert "SD_MODEL_ID has changed in .env" in done.stderr


def test_the_api_logs_changes_that_need_a_new_container() -> None:
    old, new = {"SD_PORT": "7860", "REDIS_PASSWORD": "x"}, {"SD_PORT": "80", "REDIS_PASSWORD": "secret"}

    lines = script("api", old, new)
    assert lines.count("apply it with: docker compose up -d") == 2
    assert "secret" not in lines
    assert script("worker", old, new) == script("housekeeper", old, new) == ""


def test_a_setting_reaches_only_the_services_that_read_it() -> None:
    new = {"SD_API_KEY": "k", "SD_BFL_API_KEY": "b", "SD_WEBHOOK_SECRET": "w", "AWS_REGION": "r"}
    variables = {family: {line.split()[1] for line in script(family, {}, new).splitlines()} for family in FAMILIES}

    assert variables["api"] == {"SD_API_KEY", "SD_BFL_API_KEY", "SD_WEBHOOK_SECRET", "AWS_REGION"}
    assert variables["worker"] == {"SD_BFL_API_KEY", "AWS_REGION"}
    assert variables["housekeeper"] == {"SD_BFL_API_KEY", "SD_WEBHOOK_SECRET", "AWS_REGION"}


@pytest.mark.parametrize(
    ("family", "name"), [("api", "stable-diffusion"), ("worker", "worker-sd"), ("housekeeper", "housekeeper")]
)
def test_a_restart_applies_exactly_what_up_passes_on(family: str, name: str) -> None:
    passed = {variable for variable in SERVICES[name]["environment"] if variable not in OF_COMPOSE}

    assert all(applies_on_restart(family, variable) for variable in passed)
    assert SERVICES[name]["group_add"] == [str(FAMILIES[family][1])]
    # `up` recreates `settings` with the services whose settings have changed, so that it starts over.
    assert passed <= set(SERVICES["settings"]["environment"])


def test_no_message_asks_for_a_change_that_up_has_applied() -> None:
    """`up` recreates `settings` for a change of every variable that a compose file uses, so that it starts over."""
    files = [
        ROOT / "compose.yaml",
        *(path for path in (ROOT / "compose").glob("*.yaml") if path.name != "compose.yaml"),
    ]
    used = {name for file in files for name in re.findall(r"(?<!\$)\$\{?([A-Z_]+)", file.read_text())}
    # Both show in the URL, which compose/other-redis.yaml replaces here too.
    used -= {"SD_REDIS_URL", "REDIS_PASSWORD"}

    assert used | {"COMPOSE_FILE", "COMPOSE_PROFILES"} <= set(SERVICES["settings"]["environment"])


def test_the_comparison_survives_a_restart_and_starts_over_with_a_new_container(tmp_path: Path) -> None:
    assert original_values(tmp_path, {"SD_MODEL_ID": "a"}, "one") == {"SD_MODEL_ID": "a"}
    assert original_values(tmp_path, {"SD_MODEL_ID": "b"}, "one") == {"SD_MODEL_ID": "a"}
    assert original_values(tmp_path, {"SD_MODEL_ID": "b"}, "two") == {"SD_MODEL_ID": "b"}
    assert (tmp_path / ".before").stat().st_mode & 0o777 == 0o600


def test_the_file_may_be_missing_and_is_read_as_compose_reads_it(tmp_path: Path) -> None:
    assert read_env(tmp_path / ".env") == {}
    (tmp_path / ".env").write_text("\ufeffSD_MODEL_ID=\"a b\" # why\nexport SD_DEVICE='cpu'\nnonsense\nSD_DTYPE=\n")
    assert read_env(tmp_path / ".env") == {"SD_MODEL_ID": "a b", "SD_DEVICE": "cpu"}


def test_a_stop_of_the_service_that_reads_env_is_no_failure(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from compose.container import changed_settings
changed_settings.FAMILIES = {name: (family, os.getgid()) for name, (family, _) in changed_settings.FAMILIES.items()}
changed_settings.main(Path(".env"), Path(), Path("ready"))
"""
    process = Process([sys.executable, "-c", code], tmp_path)
    wait_until((tmp_path / "ready").exists)

    process.send(signal.SIGTERM)

    assert process.wait() == 0, process.output


@pytest.mark.parametrize(("new", "ends"), [("b", True), ("a", False)])
def test_a_worker_restarts_after_the_api_if_its_settings_have_changed(
    start: Path, tmp_path: Path, new: str, ends: bool
) -> None:
    (tmp_path / "worker").touch()
    (tmp_path / "restarts").mkdir()
    # Root may write everywhere, which would make this the API.
    quick = start.read_text().replace("[ -w ", "[ '' -a -w ").replace("sleep 2", "sleep 0.1")
    start.write_text(quick)
    command = ["/bin/sh", str(start), "/bin/sh", "-c", "echo started; exec sleep 30"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout
    try:
        assert process.stdout.readline() == "started\n"
        write(tmp_path / "worker", script("worker", {"SD_MODEL_ID": "a"}, {"SD_MODEL_ID": new}), 0o644, group=-1)
        (tmp_path / "restarts/last").write_text("now")
        end = time.monotonic() + (60 if ends else 1)
        while time.monotonic() < end and not (tmp_path / "ended").exists():
            time.sleep(0.05)
        assert (tmp_path / "ended").exists() is ends
        assert process.poll() is None
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()
