"""A flux-local worker through HTTP: its states, its defaults, and edits."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from tests.stack import Api, Stack
from tests.worker.engines.diffusers.flux.klein import save_klein
from tests.worker.engines.drawing import speckled
from tests.worker.images.image_checks import pixels
from tests.worker.new_jobs import image_bytes, run_job, start_job

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")


def backend(api: Api, name: str = "flux-local") -> dict[str, Any]:
    backends = api.get("/api/backends").json()["backends"]
    found: dict[str, Any] = next(backend for backend in backends if backend["name"] == name)
    return found


def is_seen(api: Api, status: str) -> bool:
    """Whether the backend reaches this status. The API reads it only now and then."""
    end = time.monotonic() + 30
    while backend(api)["status"] != status:
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.05)
    return True


@pytest.fixture(scope="module")
def flux(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and a worker with a small Klein. worker/process/test_start.py sees that a backend is loading."""
    folder: Path = tmp_path_factory.mktemp("flux")
    settings = {"SD_BACKENDS": "flux-local", "SD_SAFETY_CHECKER": "false", "SD_DEVICE": "cpu"}
    with Stack(redis_url, folder, SD_FLUX_MODEL_ID=str(save_klein(folder / "klein")), **settings) as stack:
        stack.start_api()
        assert is_seen(stack.api, "offline")
        stack.start_worker("flux-local")
        assert is_seen(stack.api, "ready")
        yield stack


def encoded(number: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.roll(speckled(96, 64), number)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_prompt_alone_gives_an_image_with_the_models_defaults(flux: Stack) -> None:
    job = run_job(flux, prompt="a red heart on a blue background")

    assert job["backend"] == "flux-local"
    assert (job["request"]["num_inference_steps"], job["request"]["guidance_scale"]) == (4, 1.0)
    assert (job["warnings"], job["images"][0]["flagged"]) == ([], False)
    assert pixels(image_bytes(flux, job)).shape == (1024, 1024, 3)


def test_the_api_reports_device_and_capabilities(flux: Stack) -> None:
    view = backend(flux.api)
    (worker,) = view["workers"]
    fields = view["capabilities"]["properties"]

    assert (view["device"], view["dtype"], worker["placement"]) == ("cpu", "float32", "resident")
    assert "resident; its parts take 0.0 GB" in flux.worker.output
    assert (fields["num_inference_steps"]["default"], fields["guidance_scale"]["default"]) == (4, 1.0)
    assert fields["width"] | {"description": ""} == {
        "type": ["integer", "null"],
        "minimum": 64,
        "maximum": 2048,
        "multipleOf": 16,
        "default": 1024,
        "description": "",
    }
    assert all(fields[name]["x-ignored"] for name in ("negative_prompt", "scheduler", "strength", "guidance_scale"))


def test_ignored_fields_become_warnings_of_the_job(flux: Stack) -> None:
    job = run_job(flux, prompt="x", negative_prompt="y", scheduler="euler", width=64, height=64)

    ignored = [warning.partition(" is ignored")[0] for warning in job["warnings"]]
    assert ignored == ["negative_prompt", "scheduler"]


def test_an_image_is_edited_at_its_own_size(flux: Stack) -> None:
    answer = requests.post(
        f"{flux.api.url}/api/img2img",
        files={"image": ("in.png", base64.b64decode(encoded(0)), "image/png")},
        data={"prompt": "x", "seed": "1"},
        timeout=60,
    )

    assert answer.status_code == 200, answer.text
    assert pixels(image_bytes(flux, answer.json())).shape == (64, 96, 3)


def test_a_fourth_input_image_changes_the_result(flux: Stack) -> None:
    references = [encoded(number) for number in range(4)]

    four, three = (run_job(flux, prompt="x", seed=1, image=references[:count]) for count in (4, 3))

    assert not np.array_equal(pixels(image_bytes(flux, four)), pixels(image_bytes(flux, three)))


def test_five_input_images_are_refused(flux: Stack) -> None:
    answer = flux.api.post("/api/txt2img", {"prompt": "x", "image": [encoded(number) for number in range(5)]})

    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": "/image", "detail": "may contain at most 4 images"}]


def test_a_job_is_cancelled_at_its_next_step_while_the_backend_is_busy(flux: Stack) -> None:
    job_id = start_job(flux, prompt="x", num_inference_steps=150)

    assert is_seen(flux.api, "busy")
    flux.api.delete(f"/api/jobs/{job_id}")

    ended = flux.api.wait_until_done(job_id)
    assert (ended["state"], ended["images"]) == ("cancelled", [])
    assert is_seen(flux.api, "ready")
