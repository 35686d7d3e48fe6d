"""FLUX.2 Klein on a GPU: precision, placement, and a model of the real size."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Flux2Transformer2DModel

from tests.worker.drawing import draw, speckled
from tests.worker.klein import full_size, in_bfloat16, save_klein
from worker.backends import flux_local
from worker.backends.base import Inputs
from worker.backends.flux_local import FluxLocal, Options
from worker.backends.placement import WORKING_BYTES, Placement, sizes_of
from worker.models.sources import Source

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|accelerate)"),
]

SIZE = {"width": 128, "height": 64}
GB = 10**9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_klein(tmp_path_factory.mktemp("klein"))


def loaded(folder: Path, **options: Any) -> FluxLocal:
    model = Source("SD_FLUX_MODEL_ID", str(folder), Path("unused")).find()
    return FluxLocal.load(model, Options(**options))


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(flux_local, "free_bytes", lambda _: free)


def test_it_runs_in_bfloat16_and_resident_where_there_is_room(folder: Path) -> None:
    model = loaded(folder)

    assert (torch.device(model.device).type, model.dtype, model.placement) == ("cuda", "bfloat16", "resident")


@pytest.mark.parametrize("placement", [Placement.MODEL_OFFLOAD, Placement.GROUP_OFFLOAD])
def test_every_placement_gives_the_same_picture(
    folder: Path, placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = loaded(folder)
    largest = max(sizes_of(resident._pipe).values())
    with_free(monkeypatch, WORKING_BYTES + largest if placement is Placement.MODEL_OFFLOAD else 0)
    model = loaded(folder)
    assert model.placement == placement

    for inputs in (Inputs(), Inputs((speckled(128, 64),) * 2)):
        expected, made, again = (draw(one, inputs, **SIZE).pixels for one in (resident, model, model))
        assert np.array_equal(made, again)
        assert np.abs(expected.astype(int) - made.astype(int)).mean() < 1


def test_a_picture_that_fits_with_idle_parts_outside_is_made_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(folder)
    before = draw(model, **SIZE).pixels
    # Once as it is, once in tiles, which help the decoder only.
    forward, failures = Flux2Transformer2DModel.forward, iter([True, True])

    def full_twice(*args: Any, **kwargs: Any) -> Any:
        if next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(Flux2Transformer2DModel, "forward", full_twice)

    relieved = draw(model, **SIZE)

    assert relieved.watch.warnings[-1] == "memory was short: idle parts of the model waited in main memory"
    assert np.array_equal(relieved.pixels, before)
    after = draw(model, **SIZE)
    assert after.watch.warnings == []
    assert np.array_equal(after.pixels, before)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("placement", "most_bytes"),
    [(Placement.RESIDENT, 19.2 * GB), (Placement.MODEL_OFFLOAD, 11.3 * GB), (Placement.GROUP_OFFLOAD, 5 * GB)],
)
def test_a_model_of_the_real_size_keeps_to_the_memory_it_was_placed_by(
    placement: Placement, most_bytes: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.mem_get_info()[0] < most_bytes:
        pytest.skip("the device is too small")
    with in_bfloat16(), torch.device("cuda"):
        pipe = full_size()
    pipe.to("cpu")
    pipe.set_progress_bar_config(disable=True)
    torch.cuda.empty_cache()
    with_free(monkeypatch, int(most_bytes))
    model = FluxLocal(pipe, "klein", torch.device("cuda"), checker=None, cloud=False)
    assert model.placement == placement
    torch.cuda.reset_peak_memory_stats()
    draw(model, num_inference_steps=4)

    begin = time.perf_counter()
    drawn = draw(model, num_inference_steps=4)
    seconds = time.perf_counter() - begin

    peak = torch.cuda.max_memory_reserved()
    with capsys.disabled():
        sys.stdout.write(f"\n{placement}: {seconds:.2f} s for 1024x1024 in 4 steps, {peak / GB:.1f} GB at most\n")
    assert drawn.pixels.shape == (1024, 1024, 3)
    assert drawn.watch.warnings == []
    assert peak <= most_bytes
