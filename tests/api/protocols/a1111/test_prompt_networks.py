"""LoRAs and embeddings in prompts, through a real API and worker: the pixels of diffusers with them."""

import base64
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.stack import Stack
from tests.worker.engines import tiny
from tests.worker.images.image_checks import Pixels

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft)")

#: In a sub-folder, with a space and a dot.
LORA = "people/fine detail v1.5"
SCALE, STEPS, GUIDANCE = 0.8, 3, 5.0
EMBEDDING = "old-style"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and beside it a LoRA and an embedding for it."""
    folder = tmp_path_factory.mktemp("model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place, _, name = LORA.rpartition("/")
        tiny.save_lora(folder / "loras" / place, name, tiny.save_sd(folder / "tiny"))
    file = folder / "loras" / f"{LORA}.safetensors"
    save_file(load_file(file), file, {"modelspec.trigger_phrase": "fine, detailed"})
    (folder / "embeddings").mkdir()
    save_file({"emb_params": torch.randn(2, 8) * 5}, folder / "embeddings" / f"{EMBEDDING}.safetensors")
    return folder


@pytest.fixture(scope="module")
def local(redis_url: str, tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Stack]:
    settings = {
        "SD_BACKENDS": "sd",
        "SD_MODEL_ID": str(folder / "tiny"),
        "SD_LORA_DIR": str(folder / "loras"),
        "SD_EMBEDDING_DIR": str(folder / "embeddings"),
        "SD_SAFETY_CHECKER": "false",
    }
    with Stack(redis_url, tmp_path_factory.mktemp("local"), **settings) as stack:
        stack.start_worker("sd")
        stack.start_api()
        yield stack


def drawn(stack: Stack, prompt: str) -> tuple[Pixels, dict[str, Any]]:
    """The image, and its job."""
    size = {"width": tiny.NATIVE_SIDE, "height": tiny.NATIVE_SIDE}
    body = {"prompt": prompt, "seed": 7, "steps": STEPS, "cfg_scale": GUIDANCE, "sampler_name": "Euler", **size}
    answer = stack.api.post("/sdapi/v1/txt2img", body)
    assert answer.status_code == 200, answer.text
    image = Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0])))
    job: dict[str, Any] = stack.api.get(f"/api/jobs/{answer.headers['X-Job-Id']}").json()
    job["request"] = stack.api.get(f"/api/jobs/{job['id']}/request").json()["request"]
    return np.asarray(image.convert("RGB")), job


def bare_pixels(folder: Path, scale: float | None, prompt: str = "a cat") -> Pixels:
    """By diffusers alone, with the LoRA if there is a scale, and the embedding as `zzone`."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder / "tiny")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    if scale is not None:
        file = folder / "loras" / f"{LORA}.safetensors"
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="it")
        pipe.set_adapters("it", scale)
    pipe.load_textual_inversion(str(folder / "embeddings" / f"{EMBEDDING}.safetensors"), token="zzone")
    generator = torch.Generator().manual_seed(7)
    options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "generator": generator}
    return np.asarray(pipe(prompt, **options).images[0])


def test_a_lora_in_a_prompt_gives_the_pixels_of_diffusers_with_that_lora(local: Stack, folder: Path) -> None:
    plain, _ = drawn(local, "a cat")

    pixels, job = drawn(local, f"a cat <lora:{LORA}:{SCALE}>")

    assert job["request"]["loras"] == [{"name": LORA, "scale": SCALE}]
    assert job["request"]["prompt"] == "a cat"
    assert not np.array_equal(pixels, plain)
    assert np.array_equal(pixels, bare_pixels(folder, SCALE))
    assert np.array_equal(plain, bare_pixels(folder, None))


def test_the_scale_in_the_prompt_counts(local: Stack, folder: Path) -> None:
    pixels, _ = drawn(local, f"<lora:{LORA}:0.3> a cat")

    assert np.array_equal(pixels, bare_pixels(folder, 0.3))
    assert not np.array_equal(pixels, bare_pixels(folder, SCALE))


def test_a_job_after_one_with_a_lora_is_drawn_without_it(local: Stack, folder: Path) -> None:
    drawn(local, f"a cat <lora:{LORA}:{SCALE}>")

    pixels, job = drawn(local, "a cat")

    assert not job["request"].get("loras")
    assert np.array_equal(pixels, bare_pixels(folder, None))


def test_an_unknown_lora_is_a_warning_and_no_other_image(local: Stack, folder: Path) -> None:
    pixels, job = drawn(local, "a cat <lora:unknown:1>")

    assert any("'unknown' is left out" in warning for warning in job["warnings"])
    assert np.array_equal(pixels, bare_pixels(folder, None))


def test_the_words_that_a_lora_was_trained_with_are_listed(local: Stack) -> None:
    (lora,) = [one for one in local.api.get("/sdapi/v1/loras").json() if one["alias"] == LORA]
    assert lora["metadata"] == {"modelspec.trigger_phrase": "fine, detailed"}
    (backend,) = [one for one in local.api.get("/api/backends").json()["backends"] if one["name"] == "sd"]
    assert backend["capabilities"]["properties"]["loras"]["x-trigger-words"][LORA] == ["fine", "detailed"]


def test_an_embedding_is_listed_and_used_by_its_name_in_the_prompt(local: Stack, folder: Path) -> None:
    assert local.api.get("/sdapi/v1/embeddings").json()["loaded"].keys() == {EMBEDDING}
    (backend,) = [one for one in local.api.get("/api/backends").json()["backends"] if one["name"] == "sd"]
    assert backend["capabilities"]["properties"]["prompt"]["x-embeddings"] == [EMBEDDING]

    pixels, _ = drawn(local, f"a cat, {EMBEDDING}")

    assert np.array_equal(pixels, bare_pixels(folder, None, "a cat, zzone"))
    assert not np.array_equal(pixels, bare_pixels(folder, None, f"a cat, {EMBEDDING}"))
