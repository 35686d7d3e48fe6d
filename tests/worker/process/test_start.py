"""The start of a worker: its log and its downloads."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.redis.store import connect
from tests.conftest import RED_HEART
from tests.stack import Api, Stack
from tests.support.polling import wait_until
from tests.support.process import Process
from tests.worker.models.hub import hub_serving
from tests.worker.new_jobs import child_process, run_job
from worker.models.sources import STARTER

NAME, TOKEN = "someone/starter-copy", "hf_token"
UNET = "unet/diffusion_pytorch_model.safetensors"
#: Of that file. The hub's client writes what comes in pieces of 10 MiB.
HALF, WRITTEN = 12_000_000, 10 << 20


def wait_for_health(api: Api, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return what /health answers once the condition holds."""
    end = time.monotonic() + 30
    while not condition(health := api.get("/health").json()):
        assert time.monotonic() < end, health
        threading.Event().wait(0.1)
    return health


def sd_backend(api: Api) -> dict[str, Any]:
    backends = api.get("/api/backends").json()["backends"]
    found: dict[str, Any] = next(backend for backend in backends if backend["name"] == "sd")
    return found


def test_the_log_of_a_start_has_no_noise_of_libraries(cold: Process) -> None:
    """Not even for root."""
    start = "".join(cold.output.partition("ready.")[:2])
    messages = [line.split(maxsplit=2)[2] for line in start.split("\n")]

    placed, in_memory, loaded, connected, ready = messages
    assert in_memory.startswith("starter is loaded after ")
    assert placed.startswith("starter: resident; its parts take 0.1 GB")
    assert loaded.startswith("starter is ready on cpu (float32) after ")
    assert connected.startswith("Connected to redis")
    assert ready.endswith("ready.")


def test_a_worker_that_redis_refuses_a_command_says_which(redis_url: str, tmp_path: Path) -> None:
    with connect(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">pw", "~*", "&*", "+@all", "-brpop")
    with Stack(redis_url.replace("unix://", "unix://worker:pw@"), tmp_path) as stack:
        worker = stack.start_worker("null")

        worker.wait_for("Redis refuses what a worker needs: User worker has no permissions to run the 'brpop' command")

        assert worker.output.count("Connection to broker lost") == 1
        assert "Warning" not in worker.output


def test_clients_see_the_download_of_a_model_and_the_next_worker_completes_it(stack: Stack) -> None:
    api = stack.start_api()
    settings = {"SD_MODEL_ID": NAME, "SD_HUGGINGFACE_TOKEN": TOKEN, "SD_SAFETY_CHECKER": "false"}
    with hub_serving(NAME, STARTER, TOKEN) as hub:
        hub.stalls = {UNET: HALF}
        stack.start_worker("sd", ready=False, HF_ENDPOINT=hub.url, **settings)
        health = wait_for_health(api, lambda health: health["downloads"].get("sd", {}).get("bytes_done", 0) >= WRITTEN)
        (worker,) = sd_backend(api)["workers"]
        assert health["backends"]["sd"] == sd_backend(api)["status"] == worker["state"] == "loading"
        assert worker["download"]["bytes_total"] == health["downloads"]["sd"]["bytes_total"] > 2 * HALF
        child = child_process(stack.worker)
        stack.worker.send(signal.SIGKILL)
        child.kill()
        hub.stalls = {}
        last = stack.start_worker("sd", ready=True, HF_ENDPOINT=hub.url, **settings)

    # Twice: the index, which tells what is needed and comes last; and what was not whole when the worker was lost.
    sent = Counter(name for name, _ in hub.sent)
    assert sent[UNET] == 2
    assert sent["text_encoder/model.safetensors"] == 1
    assert run_job(stack, **RED_HEART, num_inference_steps=4)["model"] == NAME
    # What the API knows of workers may be half a second old.
    wait_until(lambda: any(worker["state"] != "loading" for worker in sd_backend(api)["workers"]))
    (ready,) = (worker for worker in sd_backend(api)["workers"] if worker["state"] != "loading")
    assert (ready["download"], ready["placement"]) == (None, "resident")
    assert "downloading someone/starter-copy: " in last.output
    assert hub.url not in last.output
    assert TOKEN not in last.output


def test_further_models_are_downloaded_while_the_worker_runs_jobs(stack: Stack) -> None:
    api = stack.start_api()
    settings = {"SD_MODELS": f"./nope,{NAME},someone/no-such-model", "SD_HUGGINGFACE_TOKEN": TOKEN}
    settings["SD_SAFETY_CHECKER"] = "false"
    with hub_serving(NAME, STARTER, TOKEN) as hub:
        hub.stalls = {UNET: HALF}
        worker = stack.start_worker("sd", ready=True, HF_ENDPOINT=hub.url, **settings)
        assert run_job(stack, **RED_HEART, num_inference_steps=4)["model"] == "starter"
        wait_until(lambda: state_of(api, NAME) in ("downloading", "missing"))
        hub.stalls = {}
        worker.send(signal.SIGTERM)
        worker.wait()
        next_worker = stack.start_worker("sd", ready=True, HF_ENDPOINT=hub.url, **settings)
        wait_until(lambda: state_of(api, NAME) == "available")

    assert run_job(stack, **RED_HEART, model=NAME, num_inference_steps=4)["model"] == NAME
    missing = "a model of SD_MODELS is not offered: SD_MODELS is ./nope, but there is no such folder or file"
    assert missing in next_worker.output
    assert next_worker.output.count("a model of SD_MODELS is not offered: ") == 2


def state_of(api: Api, model: str) -> str | None:
    states = {entry["name"]: entry["state"] for entry in api.get("/api/models").json()["models"]}
    return states.get(model)
