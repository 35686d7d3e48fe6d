"""What a worker does that cannot load its model."""

import gc
import shutil
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.redis.store import Store, connect
from shared.settings.worker import WorkerSettings
from shared.workers.records import WorkerRecord, Workers, WorkerState
from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.support.polling import wait_until
from tests.support.process import Process
from tests.worker.models.conftest import reach
from tests.worker.new_jobs import child_process, get_job, simulated, start_job, submit_job
from worker.models.sources import STARTER
from worker.process.engine_loading import load_engines
from worker.process.start_failures import backoff_seconds, redact
from worker.records.heartbeat import Heartbeat
from worker.records.recovery import WorkerIdentity

REASON = "SD_MODEL_ID is /nonexistent, but there is no such folder or file; Hugging Face ids are owner/name."
NO_PILLOW = "The null backend could not be loaded: no Pillow here"


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are executed: a forked one has imported everything that PYTHONPATH could change."""
    monkeypatch.setattr(Process, "forked_modules", ())


def break_pillow(folder: Path) -> None:
    """Processes with this folder in their PYTHONPATH cannot import Pillow."""
    (folder / "PIL.py").write_text("raise ImportError('no Pillow here')")


def critical_message(worker: Process) -> str:
    """The only critical message of a worker that ended by itself, without a traceback of ours."""
    (line,) = (line for line in worker.output.splitlines() if "CRITICAL" in line)
    return line


def test_a_worker_without_its_model_ends_with_one_message_and_takes_no_job(stack: Stack) -> None:
    stack.start_api()
    waiting = submit_job(stack, **RED_HEART)

    worker = stack.start_worker("sd", ready=False, SD_MODEL_ID="/nonexistent")

    assert worker.wait() == 1
    assert critical_message(worker).endswith(REASON)
    assert "Traceback" not in worker.output
    assert get_job(stack, waiting)["state"] == "queued"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_id": "nobody/nothing"}, "Hugging Face is unreachable"),
        ({"device": "cuda:99"}, "SD_DEVICE is cuda:99, but this machine has no such device"),
        ({"backend": Backend.FLUX_LOCAL}, "The model black-forest-labs/FLUX.2-klein-4B is not in"),
    ],
    ids=["no network", "no such device", "no network for flux-local"],
)
def test_the_message_names_the_reason(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    reach("http://127.0.0.1:9", monkeypatch)

    assert message in load_failure(redis_url, tmp_path, **settings)


def test_the_message_of_a_missing_safety_checker_says_how_to_go_on(redis_url: str, tmp_path: Path) -> None:
    model = shutil.copytree(STARTER, tmp_path / "model")

    message = load_failure(redis_url, tmp_path, model_id=str(model), safety_checker_id="/nonexistent")

    assert "SD_SAFETY_CHECKER_ID is /nonexistent" in message
    assert message.endswith("SD_SAFETY_CHECKER=false to run without one.")


def load_failure(redis_url: str, folder: Path, **settings: Any) -> str:
    configured = WorkerSettings(redis_url=redis_url, model_dir=folder, **({"backend": Backend.SD} | settings))
    store, record = Store(connect(redis_url)), loading_record(configured)
    heartbeat = Heartbeat(store, Workers(configured.redis_prefix), record)
    with pytest.raises(ConfigurationError) as failure:
        load_engines(configured, store, WorkerIdentity("w", "1"), heartbeat, lambda *_: None)
    # It is off only while libraries are imported.
    assert gc.isenabled()
    return failure.value.detail


def loading_record(settings: WorkerSettings) -> WorkerRecord:
    now = datetime.now(UTC)
    return WorkerRecord(
        id="w#1", name="w", backend=settings.backend, state=WorkerState.LOADING, model="x", started_at=now
    )


def test_health_gives_the_reason_until_a_worker_is_ready(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory, executed: None
) -> None:
    path = tmp_path_factory.mktemp("broken")
    break_pillow(path)
    api = stack.start_api(SD_BACKENDS="null")

    broken = stack.start_worker("null", ready=False, PYTHONPATH=str(path))

    assert broken.wait() == 1
    assert critical_message(broken).endswith(NO_PILLOW)
    health = api.get("/health").json()
    (backend,) = (entry for entry in api.get("/api/backends").json()["backends"] if entry["name"] == "null")
    assert (health["backends"]["null"], backend["status"]) == ("offline", "offline")
    assert health["reasons"]["null"] == backend["reason"] == NO_PILLOW

    stack.start_worker("null")

    wait_until(lambda: api.get("/health").json()["reasons"] == {})


def test_a_worker_that_keeps_failing_backs_off_before_it_ends_and_still_stops_on_a_signal(stack: Stack) -> None:
    settings = {"SD_MODEL_ID": "/nonexistent", "SD_RESTART_BACKOFF_SECONDS": "300"}
    first = stack.start_worker("sd", ready=False, **settings)
    assert first.wait() == 1

    second = stack.start_worker("sd", ready=False, **settings)
    second.wait_for(REASON)

    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1.5)
    second.send(signal.SIGTERM)
    second.wait()


def test_a_job_outlives_a_worker_that_cannot_load_its_model_again(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory, executed: None
) -> None:
    path = tmp_path_factory.mktemp("path")
    stack.start_api(SD_BACKENDS="null")
    worker = stack.start_worker("null", PYTHONPATH=str(path))
    job_id = start_job(stack, **simulated(seconds=3))
    break_pillow(path)

    child_process(worker).kill()

    assert worker.wait() == 1
    assert NO_PILLOW in worker.output
    stack.start_worker("null")
    assert stack.api.wait_until_done(job_id)["attempt"] == 2


def test_backoff_grows_from_nothing_to_its_maximum() -> None:
    assert [backoff_seconds(failures, 60) for failures in range(1, 7)] == [0, 10, 20, 40, 60, 60]
    assert backoff_seconds(10_000, 0) == 0


def test_a_reason_contains_no_secret_and_only_paths_that_the_operator_configured() -> None:
    settings = WorkerSettings(
        _env_file=None,
        redis_url="redis://:pass%20word@redis",
        huggingface_token=SecretStr("hf_abcdef"),
        model_id="/models/mine",
    )
    sentence = (
        "hf_abcdef at redis://:pass%20word@redis: no /models/mine/unet,\n"
        "in '/opt/venv/lib/loader.py', and/or https://hub.example/x/y"
    )

    assert redact(settings, sentence) == (
        "*** at redis://:***@redis: no /models/mine/unet, in '…/loader.py', and/or https://hub.example/x/y"
    )
    assert len(redact(settings, "x" * 9000)) == 500
