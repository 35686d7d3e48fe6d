"""What was measured once of graphs and compiled code is known after a restart."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.worker.engines.diffusers.acceleration.recording_graphs import RecordingGraphs
from tests.worker.engines.diffusers.acceleration.test_cuda_graphs import UNTIL_CAPTURED, Denoiser, random, run
from worker.engines.diffusers.acceleration import compiled_denoiser
from worker.engines.diffusers.acceleration.accelerator import Accelerator, DenoiserPlan
from worker.engines.diffusers.acceleration.compiled_code import CompiledCode
from worker.engines.diffusers.acceleration.compiled_denoiser import compile_denoiser
from worker.engines.diffusers.acceleration.cuda_graphs import CudaGraphs
from worker.engines.diffusers.acceleration.decisions import Decision, Decisions
from worker.engines.diffusers.options import Level

CPU = torch.device("cpu")


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


def test_a_restart_runs_compiled_code_once_and_times_nothing_again(
    denoiser: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[None]()
    denoiser.register_forward_pre_hook(lambda *_: calls.append(None))
    monkeypatch.setattr(compiled_denoiser, "_compile", lambda *_: None)
    plan = DenoiserPlan(denoiser, CPU, Level.FAST, ("model",), tmp_path)
    given = random("cpu", 2, 8), random("cpu", 1)

    Accelerator(plan).prepare(["64x64"], [1], lambda *_: denoiser(*given))
    calls.clear()
    again = Accelerator(plan)
    again.prepare(["64x64"], [1], lambda *_: denoiser(*given))

    # Once more for libraries to set up their workspaces.
    assert len(calls) == 2
    assert "compiled for 64x64" in again.description


def test_compiling_that_gained_nothing_is_not_repeated(denoiser: Denoiser) -> None:
    runs, known = [lambda: pytest.fail("ran")], Decision(1.1, chosen=False)

    assert not compile_denoiser(denoiser, runs, CPU, CompiledCode(None, CPU), known=known).is_used
