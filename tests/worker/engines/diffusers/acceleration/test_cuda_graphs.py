"""CUDA graphs of a denoiser: the numbers of the usual way, measured decisions, and no trace after a failure.

On the CPU, a recorder stands for CUDA. What no recorder can show runs on a GPU.
"""

from collections.abc import Callable, Hashable
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from tests.worker.engines.diffusers.acceleration.recording_graphs import RecordingGraphs
from tests.worker.engines.diffusers.devices import ON_EACH_DEVICE
from worker.engines.diffusers.acceleration import cuda_graphs
from worker.engines.diffusers.acceleration.cuda_graphs import CudaGraphs
from worker.engines.diffusers.acceleration.decisions import Decisions
from worker.engines.diffusers.acceleration.graph_backend import CudaGraphBackend

#: The calls of a shape until its graph is in use.
UNTIL_CAPTURED = 4


class Denoiser(torch.nn.Module):
    """As many kernels as make launching them the longest part."""

    def __init__(self, layers: int = 100) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(layers))

    def forward(self, sample: Any, timestep: Any, extra: dict[str, Any] | None = None) -> tuple[torch.Tensor]:
        for layer in self.layers:
            sample = layer(sample).tanh()
        return (sample * timestep + (extra or {}).get("embedding", 0),)


def random(device: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, device=device)


def with_graphs(device: str, **options: Any) -> tuple[CudaGraphs, Any]:
    backend = RecordingGraphs(**options) if device == "cpu" else CudaGraphBackend(torch.device(device, 0))
    return CudaGraphs(backend, Decisions(None, "model")), backend


@pytest.fixture
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser()


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


def run(
    graphs: CudaGraphs, denoiser: Denoiser, times: int = UNTIL_CAPTURED, rows: int = 2, state: Hashable = ()
) -> None:
    with graphs.active(denoiser, state):
        device = str(denoiser.layers[0].weight.device)
        for _ in range(times):
            denoiser(random(device, rows, 8), random(device, 1))


@pytest.mark.parametrize("device", ON_EACH_DEVICE)
def test_replays_give_the_numbers_of_the_usual_way(denoiser: Denoiser, device: str) -> None:
    denoiser.to(device)
    graphs, _ = with_graphs(device)
    given = [
        (random(device, 2, 8), random(device, 1), {"embedding": random(device, 8)}) for _ in range(3 * UNTIL_CAPTURED)
    ]
    usual = [denoiser(*arguments)[0] for arguments in given]

    with graphs.active(denoiser, ()):
        results = [denoiser(*arguments)[0] for arguments in given]

    assert graphs.count == 1
    # Also those that were kept while later replays ran.
    assert all(torch.equal(result, expected) for result, expected in zip(results, usual, strict=True))


def test_each_shape_and_each_set_of_loras_has_a_graph_of_its_own(denoiser: Denoiser) -> None:
    graphs, backend = with_graphs("cpu")

    for rows, state in ((2, ()), (4, ()), (2, (("anna", 0.8),)), (2, ())):
        run(graphs, denoiser, UNTIL_CAPTURED + 1, rows, state)

    assert (graphs.count, backend.captures) == (3, 3)


def test_only_so_many_graphs_exist(denoiser: Denoiser) -> None:
    graphs, backend = with_graphs("cpu")

    for rows in range(1, cuda_graphs.MAX_GRAPHS + 3):
        run(graphs, denoiser, rows=rows)

    assert graphs.count == cuda_graphs.MAX_GRAPHS
    run(graphs, denoiser, times=1, rows=1)
    assert backend.captures == cuda_graphs.MAX_GRAPHS + 3


def test_shapes_that_keep_replacing_each_other_get_no_more_graphs() -> None:
    graphs, backend = with_graphs("cpu")

    denoiser = Denoiser(layers=1)

    for rows in range(1, 40):
        run(graphs, denoiser, rows=rows)

    assert backend.captures <= cuda_graphs.MAX_GRAPHS + cuda_graphs.MAX_WASTED + 1


@pytest.mark.parametrize("device", ON_EACH_DEVICE)
def test_graphs_are_dropped_when_weights_move(denoiser: Denoiser, device: str) -> None:
    denoiser.to(device)
    graphs, _ = with_graphs(device)
    run(graphs, denoiser)
    kept = [layer.weight for layer in denoiser.layers]
    denoiser.layers[0].weight = torch.nn.Parameter(torch.zeros(8, 8, device=device))
    given = random(device, 2, 8), random(device, 1)
    expected = denoiser(*given)[0]

    with graphs.active(denoiser, ()):
        result = denoiser(*given)[0]

    assert graphs.count == 0
    assert torch.equal(result, expected)
    del kept


def test_weights_that_change_in_place_are_read_by_replays(denoiser: Denoiser) -> None:
    graphs, _ = with_graphs("cpu")
    run(graphs, denoiser)
    next(denoiser.parameters()).mul_(2)
    given = random("cpu", 2, 8), random("cpu", 1)

    with graphs.active(denoiser, ()):
        assert torch.equal(denoiser(*given)[0], Denoiser.forward(denoiser, *given)[0])

    assert graphs.count == 1


class Unfit(Denoiser):
    """Reads a result while it computes, which no graph can hold."""

    def forward(self, sample: Any, timestep: Any, extra: dict[str, Any] | None = None) -> tuple[torch.Tensor]:
        return super().forward(sample, timestep if float(timestep.sum()) > 1e6 else timestep + 1, extra)


@pytest.mark.parametrize("device", ON_EACH_DEVICE)
def test_a_model_that_cannot_be_captured_runs_as_usual(device: str) -> None:
    torch.manual_seed(0)
    denoiser = Unfit().to(device)

    def refuse() -> None:
        raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")

    graphs, backend = with_graphs(device, **({"fail": refuse} if device == "cpu" else {}))
    given = random(device, 2, 8), random(device, 1)
    expected = denoiser(*given)[0]

    with graphs.active(denoiser, ()):
        results = [denoiser(*given)[0] for _ in range(3 * UNTIL_CAPTURED)]

    assert graphs.count == 0
    assert all(torch.equal(result, expected) for result in results)
    if device == "cpu":
        assert backend.captures == 1
    else:
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
    # The device still works, and others may capture.
    fitting = Denoiser().to(device)
    run(graphs, fitting)
    assert torch.isfinite(fitting(*given)[0]).all()


def test_a_device_that_a_capture_has_broken_is_not_used_on(denoiser: Denoiser) -> None:
    def fail() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    graphs, _ = with_graphs("cpu", fail=fail, is_broken=fail)

    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        run(graphs, denoiser)


def test_without_room_in_memory_there_are_no_graphs(denoiser: Denoiser) -> None:
    graphs, backend = with_graphs("cpu", room=0)

    run(graphs, denoiser, 2 * UNTIL_CAPTURED)

    assert backend.captures == 0


@pytest.mark.parametrize("device", ON_EACH_DEVICE)
def test_dropped_graphs_return_their_memory_and_are_captured_again(denoiser: Denoiser, device: str) -> None:
    denoiser.to(device)
    graphs, backend = with_graphs(device)
    run(graphs, denoiser)

    graphs.drop()
    assert graphs.count == 0
    if device == "cpu":
        assert backend.releases == 1

    run(graphs, denoiser)
    assert graphs.count == 1


def test_a_cancelled_run_leaves_the_model_as_it_was(denoiser: Denoiser) -> None:
    graphs, _ = with_graphs("cpu")

    def cancelled() -> None:
        with graphs.active(denoiser, ()):
            denoiser(random("cpu", 2, 8), random("cpu", 1))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        cancelled()

    assert "forward" not in vars(denoiser)
    run(graphs, denoiser)
    assert graphs.count == 1


def test_offloaded_models_are_left_alone(denoiser: Denoiser) -> None:
    add_hook_to_module(denoiser.layers[5], ModelHook())
    graphs, backend = with_graphs("cpu")

    run(graphs, denoiser, 2 * UNTIL_CAPTURED)

    assert backend.captures == 0


@pytest.mark.parametrize(
    "arguments",
    [
        lambda: (random("cpu", 2, 8), torch.ones(1, device="meta")),
        lambda: (random("cpu", 2, 8), random("cpu", 1), {"embedding": object()}),
    ],
    ids=["a tensor elsewhere", "an object"],
)
def test_calls_that_a_graph_cannot_take_run_as_usual(denoiser: Denoiser, arguments: Callable[[], Any]) -> None:
    graphs, backend = with_graphs("cpu")
    calls = []
    denoiser.register_forward_pre_hook(lambda _, given: calls.append(given))

    with graphs.active(denoiser, (), forward=lambda *_: (torch.zeros(1),)):
        for _ in range(2 * UNTIL_CAPTURED):
            denoiser(*arguments())

    assert len(calls) == 2 * UNTIL_CAPTURED
    assert backend.captures == 0


@pytest.mark.parametrize("device", ON_EACH_DEVICE)
def test_another_forward_can_be_captured(denoiser: Denoiser, device: str) -> None:
    denoiser.to(device)
    graphs, _ = with_graphs(device)
    given = random(device, 2, 8), random(device, 1)

    def compiled(sample: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        return (Denoiser.forward(denoiser, sample, timestep)[0] + 1,)

    expected = compiled(*given)[0]
    with graphs.active(denoiser, (), compiled):
        results = [denoiser(*given)[0] for _ in range(2 * UNTIL_CAPTURED)]

    assert all(torch.equal(result, expected) for result in results)
    assert "forward" not in vars(denoiser)
