"""Upscaling as jobs of a real worker with the starter model."""

import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from tests.api.images import encoded, scene
from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.support.polling import wait_until
from tests.worker.images.image_checks import pixels, shows_a_red_heart_on_blue
from worker.models.sources import UPSCALE_STARTER


@pytest.fixture(scope="module")
def service(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("upscaling")
    models = folder / "models"
    with Stack(redis_url, folder, SD_BACKENDS="sd", SD_MODEL_DIR=str(models)) as stack:
        stack.start_worker("sd")
        stack.start_api()
        yield stack


def models_of(service: Stack) -> dict[str, dict[str, object]]:
    return {model["name"]: model for model in service.api.get("/api/models").json()["models"]}


def upscale(service: Stack, image: Image.Image, **fields: str) -> requests.Response:
    files = {"image": ("in.png", encoded(image), "image/png")}
    return requests.post(f"{service.api.url}/api/upscale", data=fields, files=files, timeout=60)


def opened(answer: requests.Response, service: Stack) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(requests.get(answer.json()["images"][0]["url"], timeout=30).content))


def test_an_image_becomes_four_times_as_large_and_shows_the_same(service: Stack) -> None:
    image = scene(96, 64)

    enlarged = opened(upscale(service, image), service)

    assert enlarged.size == (384, 256)
    difference = np.asarray(enlarged.reduce(4), int) - np.asarray(image, int)
    assert np.abs(difference).mean() < 6


def test_the_size_can_be_chosen_by_one_side(service: Stack) -> None:
    assert opened(upscale(service, scene(96, 64), width="300"), service).size == (300, 200)


def test_transparency_is_kept(service: Stack) -> None:
    image = scene(64, 64).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))

    enlarged = opened(upscale(service, image), service)

    assert enlarged.mode == "RGBA"
    opacity = np.asarray(enlarged.getchannel("A"))
    assert (opacity[:, :100] == 0).all()
    assert (opacity[:, 160:] == 255).all()


def test_an_upscaler_that_is_put_into_the_folder_is_offered_without_a_restart(service: Stack, tmp_path: Path) -> None:
    folder = service.folder / "models" / "upscalers" / "mine"
    folder.mkdir(parents=True)
    shutil.copy(UPSCALE_STARTER, tmp_path / "copy")
    (tmp_path / "copy").rename(folder / "copy of it.safetensors")
    (folder / "broken.safetensors").write_bytes(b"nonsense")

    wait_until(lambda: "upscalers/mine/broken" in models_of(service))

    listed = models_of(service)
    assert listed["upscalers/mine/broken"]["state"] == "broken"
    assert "cannot be read" in str(listed["upscalers/mine/broken"]["reason"])
    enlarged = upscale(service, scene(32, 32), model="upscalers/mine/copy of it")
    assert opened(enlarged, service).size == (128, 128)
    assert enlarged.json()["model"] == "upscalers/mine/copy of it"


def test_an_upscaler_makes_no_image_from_a_prompt(service: Stack) -> None:
    answer = service.api.post("/api/txt2img", {"prompt": "x", "model": "upscale-starter"})

    assert answer.status_code == 422
    assert "image is required" in answer.json()["detail"]


def test_an_image_of_another_size_than_the_models_is_enlarged_by_the_upscaler(service: Stack) -> None:
    """Sharper than the Lanczos filter, whose edges are as wide as its factor."""
    sharp = service.api.post("/api/txt2img", {**RED_HEART, "width": 512, "height": 512, "fit_size": True}).json()
    small = service.api.post("/api/txt2img", RED_HEART).json()

    large, native = (pixels(requests.get(job["images"][0]["url"], timeout=30).content) for job in (sharp, small))

    assert large.shape == (512, 512, 3)
    assert shows_a_red_heart_on_blue(large)
    resized = np.asarray(Image.fromarray(native).resize((512, 512), Image.Resampling.LANCZOS), int)
    steepest = [np.percentile(np.abs(np.diff(image.astype(int), axis=1)), 99.5) for image in (large, resized)]
    assert steepest[0] > 1.3 * steepest[1]


def test_the_command_line_enlarges_a_file(service: Stack, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(encoded(scene(40, 30)))

    command = [sys.executable, "-m", "compose.cli", "upscale", "in.png", "-o", "out.webp", "--url", service.api.url]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr
    with Image.open(tmp_path / "out.webp") as enlarged:
        assert enlarged.size == (160, 120)
