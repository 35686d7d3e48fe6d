"""Single files, a pair with a GGUF file, and the starter in one folder: one worker serves all of them by name."""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tests.stack import Api, Stack
from tests.support.polling import wait_until
from tests.worker.engines.diffusers.checkpoints import original_layouts as original
from tests.worker.engines.diffusers.checkpoints.test_gguf import rounded, write_gguf
from tests.worker.engines.diffusers.checkpoints.tiny_models import single_file, tiny_pipeline
from tests.worker.images.image_checks import Pixels
from tests.worker.worker_records import most_model_bytes
from worker.models.sources import STARTER

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|gguf)"),
    pytest.mark.timeout(400),
]

FILES = ("sd15", "sdxl", "flux1")
NAMES = (*FILES, "pair", "starter")
#: The weights of the two largest models, and less than those of any three.
BUDGET_BYTES = 92_000_000
JOBS, MAX_LOADS, AFFINITY_SECONDS = 20, 10, 60
REQUEST = {"prompt": "a red fox", "width": 64, "height": 64, "num_inference_steps": 2, "guidance_scale": 4.0, "seed": 1}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder of models, and bare pipelines with the same weights by name."""
    folder = tmp_path_factory.mktemp("models")
    bare = {family: tiny_pipeline(family) for family in FILES}
    for family, pipe in bare.items():
        original.write(folder / f"{family}.safetensors", *single_file(family, pipe))
    bare["flux1"].save_pretrained(folder / "owner" / "base")
    pair = tiny_pipeline("flux1")
    with torch.no_grad():
        pair.transformer.proj_out.weight.mul_(-1)
    (folder / "pair").mkdir()
    write_gguf(folder / "pair" / "transformer.gguf", original.flux(pair.transformer))
    (folder / "pair" / "imagegen.json").write_text('{"base": "owner/base", "transformer": "transformer.gguf"}')
    rounded(pair.transformer)
    starter = diffusers.DiffusionPipeline.from_pretrained(STARTER, safety_checker=None, dtype=torch.float32)
    starter.set_progress_bar_config(disable=True)
    return folder, {**bare, "pair": pair, "starter": starter}


@pytest.fixture(scope="module")
def stack(
    redis_url: str, pipelines: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    settings = {
        "SD_BACKENDS": "sd",
        "SD_MODEL_DIR": str(pipelines[0]),
        "SD_SAFETY_CHECKER": "false",
        "SD_MODEL_MEMORY_BYTES": str(BUDGET_BYTES),
        "SD_MODEL_AFFINITY_SECONDS": str(AFFINITY_SECONDS),
        "HF_HUB_OFFLINE": "1",
    }
    with Stack(redis_url, tmp_path_factory.mktemp("disk"), **settings) as stack:
        stack.start_worker("sd")
        api = stack.start_api()
        # Files that have just changed may still be changing.
        wait_until(lambda: usable_models(api) >= set(NAMES))
        yield stack


def usable_models(api: Api) -> set[str]:
    return {
        model["name"] for model in api.get("/api/models").json()["models"] if model["state"] in ("available", "loaded")
    }


def expected(pipe: Any) -> Pixels:
    arguments = {name: value for name, value in REQUEST.items() if name not in ("prompt", "seed")}
    generator = torch.Generator().manual_seed(1)
    image: Pixels = np.asarray(pipe(REQUEST["prompt"], generator=generator, **arguments).images[0])
    return image


def test_jobs_over_five_models_on_disk_get_the_right_pixels(
    stack: Stack, pipelines: tuple[Path, dict[str, Any]]
) -> None:
    api, chance = stack.api, random.Random(5)
    wanted = [chance.choice(NAMES) for _ in range(JOBS)]

    answers = [api.post("/api/jobs", {**REQUEST, "model": name}) for name in wanted]
    assert [answer.text for answer in answers if answer.status_code != 202] == []
    jobs = [answer.json() for answer in answers]
    most = most_model_bytes(stack, jobs[-5:])
    done = [api.get(f"/api/jobs/{job['id']}").json() for job in jobs]

    assert [(job["state"], job["model"]) for job in done] == [("succeeded", name) for name in wanted]
    images = {name: expected(pipe) for name, pipe in pipelines[1].items()}
    for job in done:
        image = np.asarray(Image.open(io.BytesIO(api.get(f"/api/jobs/{job['id']}/images/0").content)))
        # Eight-bit weights are widened in another order than here.
        np.testing.assert_allclose(image.astype(int), images[job["model"]].astype(int), atol=2, err_msg=job["model"])
    lines = api.get("/metrics").text.splitlines()
    (count,) = [line for line in lines if line.startswith('imagegen_model_load_seconds_count{backend="sd"}')]
    assert int(float(count.split()[-1])) <= MAX_LOADS
    assert 0 < most <= BUDGET_BYTES
