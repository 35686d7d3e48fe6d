"""Fallbacks when memory runs out, and the error when they do not suffice."""

import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

from shared.errors import OutOfMemory
from shared.jobs.requests import GenerationRequest
from tests.worker.recording_watch import RecordingWatch
from worker.engines.diffusers.memory.out_of_memory import Fallback, FittingSizes, OutOfMemoryFallbacks
from worker.engines.null import NullEngine

MODEL = NullEngine.capabilities.model_copy(update={"width": 512, "height": 512, "multiple_of": 8, "min_side": 64})
SMALLER_BATCH = Fallback("one by one", nullcontext)
TILES = Fallback("in tiles", nullcontext)


def request(width: int = 1024, height: int = 1024) -> GenerationRequest:
    return GenerationRequest(prompt="x", width=width, height=height)


def failing(times: int, error: BaseException | None = None) -> tuple[list[int], "Making"]:
    calls: list[int] = []
    return calls, Making(times, error or torch.OutOfMemoryError("CUDA out of memory"), calls)


class Making:
    """A function that fails this many times, then succeeds."""

    def __init__(self, times: int, error: BaseException, calls: list[int]) -> None:
        self._times = times
        self._error = error
        self._calls = calls

    def __call__(self) -> str:
        self._calls.append(1)
        if len(self._calls) <= self._times:
            raise self._error
        return "made"


def run_with_fallbacks(
    making: Making, *fallbacks: Fallback, sizes: FittingSizes | None = None
) -> tuple[str, RecordingWatch]:
    watch = RecordingWatch()
    with OutOfMemoryFallbacks(request(), sizes or FittingSizes(MODEL, suggest_cloud=False), watch) as memory:
        return memory.run(making, *fallbacks), watch


def refusal(sizes: FittingSizes, request: GenerationRequest) -> str:
    _, making = failing(9)
    with pytest.raises(OutOfMemory) as caught, OutOfMemoryFallbacks(request, sizes, RecordingWatch()) as memory:
        memory.run(making)
    return caught.value.detail


def test_a_job_that_fits_enables_no_fallback() -> None:
    calls, making = failing(0)

    assert run_with_fallbacks(making, SMALLER_BATCH, TILES)[1].warnings == []
    assert len(calls) == 1


def test_fallbacks_are_enabled_one_after_the_other_until_the_job_fits() -> None:
    calls, making = failing(1)

    made, watch = run_with_fallbacks(making, SMALLER_BATCH, TILES)

    assert (made, len(calls)) == ("made", 2)
    assert watch.warnings == ["memory was short: one by one"]


def test_an_enabled_fallback_is_not_enabled_again() -> None:
    calls, making = failing(2)
    watch = RecordingWatch()

    with OutOfMemoryFallbacks(request(), FittingSizes(MODEL, suggest_cloud=False), watch) as memory:
        memory.run(failing(1)[1], SMALLER_BATCH)
        with pytest.raises(OutOfMemory):
            memory.run(making, SMALLER_BATCH)

    assert len(calls) == 1
    assert len(watch.warnings) == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.04 GB, other allocations: 500.00 KB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "mps", "cublas", "python"],
)
def test_every_out_of_memory_error_is_recognised(error: BaseException) -> None:
    assert run_with_fallbacks(failing(1, error)[1], TILES)[0] == "made"


def test_torchs_own_error_on_this_machine_is_recognised() -> None:
    def too_much() -> None:
        torch.empty(2**60)

    with (
        pytest.raises(OutOfMemory),
        OutOfMemoryFallbacks(request(), FittingSizes(MODEL, suggest_cloud=False), RecordingWatch()) as memory,
    ):
        memory.run(too_much)


def test_other_errors_do_not_count_as_out_of_memory() -> None:
    calls, making = failing(1, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

    with pytest.raises(RuntimeError, match="mat1"):
        run_with_fallbacks(making, TILES)
    assert len(calls) == 1


def test_fallbacks_are_disabled_after_the_job() -> None:
    state = ["resident"]

    @contextmanager
    def offloaded() -> Iterator[None]:
        state.append("offloaded")
        yield
        state.append("resident")

    run_with_fallbacks(failing(1)[1], Fallback("offloaded", offloaded))

    assert state == ["resident", "offloaded", "resident"]


@contextmanager
def never_back() -> Iterator[None]:
    yield
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_model_that_cannot_be_restored_restarts_the_process_but_keeps_the_images() -> None:
    made, watch = run_with_fallbacks(failing(1)[1], Fallback("offloaded", never_back))

    assert made == "made"
    assert watch.restart_reasons == ["the model could not be restored after running out of memory"]


@pytest.mark.parametrize("error", [MemoryError(), torch.AcceleratorError("CUDA error: an illegal memory access")])
def test_a_damaged_process_is_restarted(error: BaseException) -> None:
    watch = RecordingWatch()
    sizes = FittingSizes(MODEL, suggest_cloud=False)

    with pytest.raises((OutOfMemory, torch.AcceleratorError)), OutOfMemoryFallbacks(request(), sizes, watch) as memory:
        memory.run(failing(1, error)[1])

    assert len(watch.restart_reasons) == 1


def test_a_device_that_was_only_full_needs_no_restart() -> None:
    assert run_with_fallbacks(failing(1)[1], TILES)[1].restart_reasons == []


def test_without_a_success_the_error_suggests_the_default_size() -> None:
    assert refusal(FittingSizes(MODEL, suggest_cloud=False), request(2048, 1024)) == (
        "The device has too little memory for 2048x1024 pixels; 720x360 should fit."
    )


def test_the_error_suggests_the_largest_success_in_the_requested_shape() -> None:
    sizes = FittingSizes(MODEL, suggest_cloud=False)
    with OutOfMemoryFallbacks(request(1024, 768), sizes, RecordingWatch()):
        pass

    assert "1252x624" not in refusal(sizes, request(2048, 1024))
    assert "1248x624 should fit" in refusal(sizes, request(2048, 1024))


def test_the_error_never_suggests_a_size_that_failed() -> None:
    sizes = FittingSizes(MODEL, suggest_cloud=False)
    refusal(sizes, request(512, 512))

    assert "256x256 should fit" in refusal(sizes, request(1024, 1024))


def test_the_error_suggests_the_cloud_if_there_is_one() -> None:
    assert refusal(FittingSizes(MODEL, suggest_cloud=True), request()).endswith(
        "512x512 should fit, and the backend flux-api makes 1024x1024."
    )


def test_a_failed_attempt_releases_its_memory_before_the_next() -> None:
    alive: list[bool] = []

    class Tensor:
        pass

    held: list[weakref.ref[Tensor]] = []

    def make() -> None:
        alive.extend(reference() is not None for reference in held)
        tensor = Tensor()
        if not held:
            held.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError("CUDA out of memory")

    with OutOfMemoryFallbacks(request(), FittingSizes(MODEL, suggest_cloud=False), RecordingWatch()) as memory:
        memory.run(make, TILES)

    assert alive == [False]


#: In a separate process, because leftovers in the heap would disturb it.
FREEING = """
import ctypes, json, resource, psutil, torch
from worker.engines.diffusers.memory.out_of_memory import free_memory, keep_freed_memory

def occupied():
    # Pages that the kernel clears for 64 MB of tensors, which are freed again.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(1 << 20) for _ in range(16)]
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# glibc's initial value; it adapts to freed tensors, but not always enough.
ctypes.CDLL(None).mallopt(-3, 128 << 10)
as_it_comes = occupied()
keep_freed_memory()
# The first tensors may not all fit into existing holes.
kept, resident = min(occupied() for _ in range(5)), psutil.Process().memory_info().rss
free_memory()
given_back = resident - psutil.Process().memory_info().rss
print(json.dumps([as_it_comes, kept, given_back, occupied()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries are left as they are")
def test_tensors_reuse_memory_and_free_memory_returns_it() -> None:
    done = subprocess.run([sys.executable, "-c", FREEING], capture_output=True, text=True, check=True)

    as_it_comes, kept, given_back, after = json.loads(done.stdout)
    assert as_it_comes > 10_000
    assert kept < 100
    assert given_back > 48 << 20
    assert after > 10_000
