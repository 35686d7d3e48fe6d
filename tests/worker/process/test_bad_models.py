"""Models and LoRAs that are no good: each has one clear state or error, and costs neither the worker nor other jobs."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.api.problem import assert_problem
from tests.stack import Stack
from tests.support.polling import wait_until
from tests.worker.engines import tiny
from tests.worker.worker_records import worker_records

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft)")

SMALL = {"prompt": "x", "width": 64, "height": 64, "num_inference_steps": 1}
WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")
SHARDS = ("diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model-00002-of-00002.safetensors")


def missing_shard(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "unet" / SHARDS[0])


def truncated_shard(folder: Path) -> None:
    for shard in SHARDS:
        shutil.copy(folder / WEIGHTS, folder / "unet" / shard)
    (folder / WEIGHTS).unlink()
    os.truncate(folder / "unet" / SHARDS[1], (folder / "unet" / SHARDS[0]).stat().st_size - 100)
    # As if it had been copied long ago.
    for file in folder.rglob("*"):
        os.utime(file, (0, 0))


def wrong_index(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusion; Pipeline"}')


def nonsense_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("[" * 100_000)


def nonsense_configuration(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{")


def code_in_index(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "unet": ["pipeline", "OwnModel"]}))
    (folder / "pipeline.py").write_text("raise SystemExit")


def huge_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((100 << 20).to_bytes(8, "little") + b" " * 1000)


def nonsense_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing-shard": (missing_shard, f"The shard unet/{SHARDS[1]} is missing."),
    "truncated-shard": (truncated_shard, f"unet/{SHARDS[1]}: The file is incomplete"),
    "wrong-index": (wrong_index, "Its model_index.json names no pipeline class."),
    "nonsense-index": (nonsense_index, "is not valid JSON."),
    "nonsense-configuration": (nonsense_configuration, "config.json of the model nonsense-configuration is not valid"),
    "code-in-index": (code_in_index, "needs its own code, which this service never runs."),
    "huge-header": (huge_header, "The header would have 104,857,600 bytes, more than the limit of 16 MB"),
    "nonsense-header": (nonsense_header, "The header is not valid JSON"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good model, those that are broken, one that fails only when it is loaded, and a LoRA of another family."""
    folder = tmp_path_factory.mktemp("bad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        good = tiny.save_sd(folder / "models" / "good")
        tiny.save_lora(folder / "loras", "for-xl", tiny.save_sdxl(folder / "xl"))
    for name, (damage, _) in BROKEN.items():
        damage(shutil.copytree(good, folder / "models" / name))
    incomplete = shutil.copytree(good, folder / "models" / "incomplete") / WEIGHTS
    tensors = load_file(incomplete)
    tensors.pop("conv_in.weight")
    save_file(tensors, incomplete, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def local(redis_url: str, tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Stack]:
    settings = {
        "SD_BACKENDS": "sd",
        "SD_MODEL_ID": str(folder / "models" / "good"),
        "SD_MODEL_DIR": str(folder / "models"),
        "SD_LORA_DIR": str(folder / "loras"),
        "SD_SAFETY_CHECKER": "false",
    }
    with Stack(redis_url, tmp_path_factory.mktemp("local"), **settings) as stack:
        stack.start_worker("sd")
        stack.start_api()
        wait_until(lambda: stack.api.get("/api/models/incomplete").status_code == 200)
        yield stack


@pytest.fixture(autouse=True)
def others_are_fine(local: Stack) -> Iterator[None]:
    """During each test, the worker stays and a job of another model succeeds."""
    before = [worker.name for worker in worker_records(local)]
    beside = local.api.post("/api/jobs", {**SMALL, "num_inference_steps": 5}).json()
    yield
    assert local.api.wait_until_done(beside["id"])["state"] == "succeeded"
    assert [worker.name for worker in worker_records(local)] == before
    assert local.api.post("/api/txt2img", SMALL).status_code == 200


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_listed_with_its_reason_and_refused(name: str, local: Stack) -> None:
    model = local.api.get(f"/api/models/{name}").json()
    answer = local.api.post("/api/txt2img", {**SMALL, "model": name})

    assert model["state"] == "broken"
    assert BROKEN[name][1] in model["reason"]
    assert_problem(answer, 503, "model-unavailable")
    assert BROKEN[name][1] in answer.json()["detail"]


def test_a_model_that_cannot_be_loaded_fails_its_job_only(local: Stack) -> None:
    job = local.api.post("/api/jobs", {**SMALL, "model": "incomplete"}).json()

    done = local.api.wait_until_done(job["id"])

    assert (done["state"], done["error"]["code"]) == ("failed", "model-unavailable")
    assert "conv_in.weight is missing" in done["error"]["detail"]


def test_a_lora_of_another_family_fails_its_job_only(local: Stack) -> None:
    job = local.api.post("/api/jobs", {**SMALL, "loras": [{"name": "for-xl", "scale": 1.0}]}).json()

    done = local.api.wait_until_done(job["id"])

    assert (done["state"], done["error"]["code"]) == ("failed", "invalid-request")
    assert "The LoRA for-xl does not fit the model" in done["error"]["detail"]


@pytest.mark.parametrize("name", ["../good", "..", "good/../good", "/good", "models/../../xl"])
def test_a_name_that_leads_elsewhere_is_no_model(name: str, local: Stack) -> None:
    assert_problem(local.api.post("/api/txt2img", {**SMALL, "model": name}), 404, "model-not-found")
