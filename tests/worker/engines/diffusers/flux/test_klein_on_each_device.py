"""FLUX.2 Klein on the CPU and on a GPU: precision, placement, and (on the GPU) a model of full size."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel

from tests.worker.conftest import alone
from tests.worker.engines.diffusers.devices import ON_EACH_DEVICE
from tests.worker.engines.diffusers.flux.klein import full_size, in_bfloat16, save_klein
from tests.worker.engines.drawing import draw, speckled
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.loading import pipelines
from worker.engines.diffusers.loading.pipeline_loading import load_pipeline
from worker.engines.diffusers.memory import placement
from worker.engines.diffusers.memory.quantization import part_sizes
from worker.engines.diffusers.options import DiffusersOptions
from worker.images.values import Inputs
from worker.models.local_model import LocalModel
from worker.models.placements import WORKING_BYTES, Placement
from worker.models.sources import ModelSource

pytestmark = [
    pytest.mark.parametrize("device", ON_EACH_DEVICE, scope="module"),
    pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|accelerate)"),
]

DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
SIZE = {"width": 128, "height": 64}
GB = 10**9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_klein(tmp_path_factory.mktemp("klein"))


def found(folder: Path) -> LocalModel:
    return ModelSource("SD_FLUX_MODEL_ID", str(folder), Path("unused")).ensure_downloaded()


def loaded(folder: Path, device: str) -> DiffusersEngine:
    return DiffusersEngine.load(found(folder), DiffusersOptions(device=device))


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """The device has so many free bytes now, and fewer once this process takes some: graphs take only what is left."""
    before = torch.cuda.memory_reserved()
    monkeypatch.setattr(placement, "free_bytes", lambda _: free + before - torch.cuda.memory_reserved())


def test_it_uses_the_precision_of_the_device_and_is_resident_if_it_fits(folder: Path, device: str) -> None:
    model = loaded(folder, device)

    assert (torch.device(model.device).type, model.dtype, model.placement) == (device, DTYPES[device], "resident")


@pytest.mark.parametrize("wanted", [Placement.MODEL_OFFLOAD, Placement.GROUP_OFFLOAD])
def test_every_placement_gives_the_same_image(
    folder: Path, device: str, wanted: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = loaded(folder, device)
    largest = max(part_sizes(resident._pipelines.text).values())
    with_free(monkeypatch, WORKING_BYTES + largest if wanted is Placement.MODEL_OFFLOAD else 0)
    model = loaded(folder, device)
    assert model.placement == wanted

    for inputs in (Inputs(), Inputs((speckled(128, 64),) * 2)):
        expected, made, again = (draw(one, inputs, **SIZE).pixels for one in (resident, model, model))
        assert np.array_equal(made, again)
        assert np.abs(expected.astype(int) - made.astype(int)).mean() < 1


def test_an_image_that_fits_only_with_idle_parts_offloaded_is_rendered(
    folder: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(folder, device)
    # The CPU has no memory of its own, but offloading works there, too.
    monkeypatch.setattr(placement, "has_own_memory", lambda _: True)
    before = draw(model, **SIZE).pixels
    forward, failures = Flux2Transformer2DModel.forward, iter([True])

    def full_once(*args: Any, **kwargs: Any) -> Any:
        if next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(Flux2Transformer2DModel, "forward", full_once)

    relieved = draw(model, **SIZE)

    assert relieved.watch.warnings[-1] == "memory was short: idle parts of the model waited in main memory"
    assert np.array_equal(relieved.pixels, before)
    after = draw(model, **SIZE)
    assert after.watch.warnings == []
    assert np.array_equal(after.pixels, before)


def built(folder: Path, device: str) -> Any:
    """Full size on a GPU, small elsewhere."""
    if device != "cuda":
        model = found(folder)
        return load_pipeline(model, Flux2KleinPipeline, torch.float32, alone(model))
    with in_bfloat16(), torch.device(device):
        pipe = full_size()
    pipe.to("cpu")
    torch.cuda.empty_cache()
    return pipe


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("wanted", "most_bytes"),
    [(Placement.RESIDENT, 19.2 * GB), (Placement.MODEL_OFFLOAD, 11.3 * GB), (Placement.GROUP_OFFLOAD, 5 * GB)],
)
def test_a_full_size_model_stays_within_its_planned_memory(
    folder: Path,
    device: str,
    wanted: Placement,
    most_bytes: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    on_gpu = device == "cuda"
    if on_gpu and torch.cuda.mem_get_info()[0] < most_bytes:
        pytest.skip("the device is too small")
    pipe = built(folder, device)
    pipe.set_progress_bar_config(disable=True)
    sizes = part_sizes(pipe).values()
    small = {
        Placement.RESIDENT: sum(sizes) + WORKING_BYTES,
        Placement.MODEL_OFFLOAD: max(sizes) + WORKING_BYTES,
        Placement.GROUP_OFFLOAD: 0,
    }
    with_free(monkeypatch, int(most_bytes) if on_gpu else small[wanted])
    monkeypatch.setattr(pipelines, "load_pipeline", lambda *_: pipe)
    model = loaded(folder, device)
    assert model.placement == wanted
    size = {} if on_gpu else SIZE
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    draw(model, num_inference_steps=4, **size)

    begin = time.perf_counter()
    drawn = draw(model, num_inference_steps=4, **size)
    seconds = time.perf_counter() - begin

    peak = torch.cuda.max_memory_reserved() if on_gpu else 0
    if on_gpu:
        with capsys.disabled():
            sys.stdout.write(f"\n{wanted}: {seconds:.2f} s for 1024x1024 in 4 steps, {peak / GB:.1f} GB at most\n")
    assert drawn.pixels.shape == ((1024, 1024, 3) if on_gpu else (64, 128, 3))
    assert drawn.watch.warnings == []
    assert peak <= most_bytes
