"""What a worker does that cannot have its model."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.settings.worker import WorkerSettings
from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.worker.new_jobs import child_process, get_job, start_job, submit_job
from worker.models.sources import STARTER_DIR
from worker.process.start_failures import backoff_seconds, redact

SLOW = {**RED_HEART, "num_inference_steps": 60}
REASON = "SD_MODEL_ID is /nonexistent, but that folder has no model_index.json."
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture
def waiting(stack: Stack) -> str:
    """A job of the sd backend, accepted while no worker was there."""
    stack.start_api()
    return submit_job(stack, **RED_HEART)


def sentences(output: str) -> list[str]:
    return [line for line in output.splitlines() if "CRITICAL" in line]


def test_a_worker_without_its_model_ends_with_one_sentence(stack: Stack) -> None:
    worker = stack.start_worker("sd", ready=False, SD_MODEL_ID="/nonexistent")

    assert worker.wait() == 1
    (sentence,) = sentences(worker.output)
    assert sentence.endswith("SD_MODEL_ID is /nonexistent, but that folder has no model_index.json.")
    assert "Traceback" not in worker.output


def test_a_worker_without_its_model_takes_no_job(stack: Stack, waiting: str) -> None:
    worker = stack.start_worker("sd", ready=False, SD_MODEL_ID="/nonexistent")

    worker.wait()

    assert get_job(stack, waiting)["state"] == "queued"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"SD_MODEL_ID": "nobody/nothing", **NO_HUB}, "Hugging Face cannot be reached"),
        ({"SD_DEVICE": "cuda:99"}, "SD_DEVICE is cuda:99, but this machine has no such device"),
        ({"SD_BACKEND": "flux-local", **NO_HUB}, "The model black-forest-labs/FLUX.2-klein-4B is not in"),
    ],
    ids=["no network", "no such device", "no network for flux-local"],
)
def test_every_reason_is_told_in_one_sentence(stack: Stack, settings: dict[str, str], sentence: str) -> None:
    worker = stack.start_worker(settings.pop("SD_BACKEND", "sd"), ready=False, **settings)

    assert worker.wait() == 1
    (told,) = sentences(worker.output)
    assert sentence in told
    assert "Traceback" not in worker.output


def test_a_worker_whose_images_cannot_be_checked_says_how_to_go_on(stack: Stack) -> None:
    folder = shutil.copytree(STARTER_DIR, stack.folder / "model")

    worker = stack.start_worker("sd", ready=False, SD_MODEL_ID=str(folder), SD_SAFETY_CHECKER_ID="/nonexistent")

    assert worker.wait(20) == 1
    (sentence,) = sentences(worker.output)
    assert "SD_SAFETY_CHECKER_ID is /nonexistent" in sentence
    assert sentence.endswith("SD_SAFETY_CHECKER=false works without.")


def test_a_worker_whose_installation_is_broken_ends(stack: Stack) -> None:
    (stack.folder / "PIL.py").write_text("raise ImportError('no Pillow here')")

    worker = stack.start_worker("null", ready=False, PYTHONPATH=str(stack.folder))

    assert worker.wait() == 1
    (sentence,) = sentences(worker.output)
    assert sentence.endswith("The null backend could not be loaded: no Pillow here")


def test_why_a_worker_has_no_model_is_told_until_one_is_ready(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="sd")
    stack.start_worker("sd", ready=False, SD_MODEL_ID="/nonexistent").wait()

    health = api.get("/health").json()
    (view,) = (backend for backend in api.get("/api/backends").json()["backends"] if backend["name"] == "sd")
    assert (health["backends"]["sd"], view["status"]) == ("offline", "offline")
    assert health["reasons"]["sd"] == view["reason"] == REASON

    stack.start_worker("sd")
    # Another process has not looked yet: this one may answer with what it saw half a second ago.
    assert stack.start_api(SD_BACKENDS="sd").get("/health").json()["reasons"] == {}


def test_a_worker_that_keeps_failing_waits_before_it_ends_and_still_stops_when_told(stack: Stack) -> None:
    settings = {"SD_MODEL_ID": "/nonexistent", "SD_RESTART_BACKOFF_SECONDS": "300"}
    first = stack.start_worker("sd", ready=False, **settings)
    assert first.wait() == 1

    second = stack.start_worker("sd", ready=False, **settings)
    second.wait_for(REASON)

    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1.5)
    second.send(signal.SIGTERM)
    second.wait(10)


def test_pauses_grow_from_nothing_to_the_longest_one() -> None:
    assert [backoff_seconds(failures, 60) for failures in range(1, 7)] == [0, 10, 20, 40, 60, 60]
    assert backoff_seconds(10_000, 0) == 0


def test_a_reason_tells_no_secret_and_only_places_that_the_operator_named() -> None:
    settings = WorkerSettings(
        _env_file=None,  # type: ignore[call-arg]
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


@pytest.fixture
def removable(stack: Stack) -> Path:
    """A model that a worker has loaded and that may go."""
    folder = shutil.copytree(STARTER_DIR, stack.folder / "model")
    stack.start_worker("sd", SD_MODEL_ID=str(folder), SD_SAFETY_CHECKER="false")
    return folder


def test_a_job_outlives_a_worker_that_cannot_load_its_model_again(stack: Stack, removable: Path) -> None:
    stack.start_api()
    job_id = start_job(stack, **SLOW)
    shutil.rmtree(removable)

    child_process(stack.worker).kill()

    assert stack.worker.wait() == 1
    assert sentences(stack.worker.output)
    stack.start_worker("sd")
    assert stack.api.wait_until_done(job_id)["attempt"] == 2
