"""Images with CUDA graphs are those of plain diffusers, whatever changes between requests.

On the CPU, a recorder stands for CUDA.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.diffusers.acceleration.recording_graphs import RecordingGraphs
from tests.worker.engines.diffusers.devices import ON_EACH_DEVICE
from tests.worker.engines.diffusers.flux.klein import save_klein
from tests.worker.engines.drawing import NOTHING, draw, right_half, speckled
from tests.worker.recording_watch import RecordingWatch
from worker.engines.diffusers.acceleration.accelerator import Accelerator
from worker.engines.diffusers.acceleration.cuda_graphs import CudaGraphs
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.options import Level
from worker.images.values import Inputs

pytestmark = [
    pytest.mark.parametrize("device", ON_EACH_DEVICE, scope="module"),
    pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft|accelerate)"),
]

#: Enough that the steps after the fourth are replays.
STEPS = {"num_inference_steps": 6}
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd": tiny.save_sd,
    "sdxl": tiny.save_sdxl,
    "lcm": tiny.save_lcm,
    "klein": save_klein,
}


@pytest.fixture(autouse=True)
def _record_on_cpus(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "cpu":
        monkeypatch.setattr(
            Accelerator,
            "_create_graphs",
            lambda accelerator, _: (
                CudaGraphs(RecordingGraphs(), accelerator._decisions) if accelerator._plan.level else None
            ),
        )


def equal(one: Any, other: Any) -> bool:
    return all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one.images, other.images, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_those_of_plain_diffusers(family: str, device: str, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path)
    size = {"width": 128, "height": 64}
    safe, plain = loaded(folder, device=device), loaded(folder, device=device, level=Level.OFF)

    for seed in (1, 2):
        assert equal(draw(safe, seed=seed, **STEPS, **size), draw(plain, seed=seed, **STEPS, **size))

    assert safe.acceleration == "safe: CUDA graphs (1)"
    assert plain.acceleration == "off"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.save_sdxl(tmp_path_factory.mktemp("model"))
    tiny.save_lora(folder / "loras", "anna", folder)
    return folder


def both(folder: Path, device: str) -> tuple[DiffusersEngine, DiffusersEngine]:
    loras = {"lora_dir": folder / "loras"}
    return loaded(folder, device=device, **loras), loaded(folder, device=device, level=Level.OFF, **loras)


def test_loras_schedulers_sizes_and_input_images_may_change_between_requests(folder: Path, device: str) -> None:
    safe, plain = both(folder, device)
    strong, weak = ({"loras": [{"name": "anna", "scale": scale}]} for scale in (0.9, 0.3))
    requests: list[dict[str, Any]] = [
        {},
        strong,
        {"scheduler": "dpm++_2m"},
        weak,
        {"width": 96, "height": 64},
        strong,
        {"guidance_scale": 1.0},
        {},
    ]

    for request in requests:
        assert equal(draw(safe, **STEPS, **request), draw(plain, **STEPS, **request)), request

    masked = Inputs((speckled(),), right_half())
    assert equal(draw(safe, masked, **STEPS), draw(plain, masked, **STEPS))
    assert "CUDA graphs" in safe.acceleration


def test_requests_with_and_without_a_lora_keep_their_graphs_beside_each_other(folder: Path, device: str) -> None:
    safe, _ = both(folder, device)
    lora = {"loras": [{"name": "anna"}]}
    draw(safe, **STEPS, **lora)
    draw(safe, **STEPS)

    draw(safe, num_inference_steps=1, **lora)
    draw(safe, num_inference_steps=1)

    assert safe.acceleration == "safe: CUDA graphs (2)"


def test_a_lora_with_another_file_gets_another_graph(
    folder: Path, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.save_lora(tmp_path, "anna", folder)
    safe = loaded(folder, device=device, lora_dir=tmp_path)
    lora = {"loras": [{"name": "anna"}]}
    draw(safe, **STEPS, **lora)
    assert safe.acceleration == "safe: CUDA graphs (1)"
    # The new weights may lie where the old ones lay, and only their scale be another.
    monkeypatch.setattr(CudaGraphs, "_require_same_weights", lambda *_: None)

    tiny.save_lora(tmp_path, "anna", folder, rank=4)
    draw(safe, num_inference_steps=1, **lora)

    assert safe.acceleration == "safe"


def test_a_job_that_is_cancelled_in_the_middle_changes_nothing_for_the_next(folder: Path, device: str) -> None:
    safe, plain = both(folder, device)

    for last in (2, 4, 5):

        def cancel(step: Any, last: int = last) -> None:
            if step.step == last:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            draw(safe, NOTHING, RecordingWatch(cancel), **STEPS)
        assert equal(draw(safe, seed=last, **STEPS), draw(plain, seed=last, **STEPS))


def test_running_out_of_memory_drops_graphs_first(folder: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    safe, plain = both(folder, device)
    draw(safe, **STEPS)
    assert safe.acceleration == "safe: CUDA graphs (1)"
    decode, failures = type(safe._pipelines.text.vae).decode, iter([True])

    def full_once(*args: Any, **kwargs: Any) -> Any:
        if next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(*args, **kwargs)

    monkeypatch.setattr(type(safe._pipelines.text.vae), "decode", full_once)
    drawn = draw(safe, **STEPS)

    assert safe.acceleration == "safe"
    assert drawn.pixels.shape == draw(plain, **STEPS).pixels.shape
    assert equal(draw(safe, **STEPS), draw(plain, **STEPS))


def test_a_model_that_leaves_the_device_takes_its_graphs_along(folder: Path, device: str) -> None:
    safe, plain = both(folder, device)
    draw(safe, **STEPS)

    safe.move_to_main_memory()
    assert safe.acceleration == "safe"
    safe.move_to_device()

    assert equal(draw(safe, **STEPS), draw(plain, **STEPS))
    assert safe.acceleration == "safe: CUDA graphs (1)"
