"""What was measured of CUDA graphs once is known after a restart."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.worker.engines.diffusers.acceleration.recording_graphs import RecordingGraphs
from tests.worker.engines.diffusers.acceleration.test_cuda_graphs import UNTIL_CAPTURED, Denoiser, run
from worker.engines.diffusers.acceleration.cuda_graphs import CudaGraphs
from worker.engines.diffusers.acceleration.decisions import Decisions


@pytest.fixture
def denoiser() -> Denoiser:
    return Denoiser()


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_a_graph_that_is_not_faster_is_not_used_and_not_tried_again_after_a_restart(
    denoiser: Denoiser, tmp_path: Path
) -> None:
    backend = RecordingGraphs(share=1.2)
    for _ in range(2):
        graphs = CudaGraphs(backend, Decisions(tmp_path, "model", "card"))
        run(graphs, denoiser, 2 * UNTIL_CAPTURED)
        assert graphs.count == 0

    assert backend.captures == 1
    run(CudaGraphs(backend, Decisions(tmp_path, "model", "another card")), denoiser)
    assert backend.captures == 2


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": [null, true]}', "\0"])
def test_a_damaged_file_of_decisions_is_written_anew(denoiser: Denoiser, tmp_path: Path, content: str) -> None:
    run(CudaGraphs(RecordingGraphs(), Decisions(tmp_path, "model")), denoiser)
    (file,) = tmp_path.iterdir()
    kept = file.read_text()
    file.write_text(content)

    graphs = CudaGraphs(RecordingGraphs(), Decisions(tmp_path, "model"))
    run(graphs, denoiser)

    assert graphs.count == 1
    assert file.read_text() == kept


@pytest.mark.parametrize(
    ("error", "captures"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), 1),
        (torch.OutOfMemoryError(), 2),
    ],
    ids=["broke the device", "ran out of memory"],
)
def test_a_capture_that_failed_is_tried_again_only_if_memory_was_short(
    denoiser: Denoiser, error: Exception, captures: int, tmp_path: Path
) -> None:
    def fail() -> None:
        raise error

    backend = RecordingGraphs(fail=fail, is_broken=fail)

    for _ in range(2):
        with suppress(type(error)):
            run(CudaGraphs(backend, Decisions(tmp_path, "model")), denoiser)

    assert backend.captures == captures
