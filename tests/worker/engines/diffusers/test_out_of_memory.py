"""What a job gives up when memory runs out, and what is said when it was not enough."""

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
from worker.engines.diffusers.out_of_memory import Fallback, MemoryBudget, OutOfMemoryFallbacks
from worker.engines.null import NullEngine

MODEL = NullEngine.capabilities.model_copy(update={"width": 512, "height": 512, "multiple_of": 8, "min_side": 64})
SMALLER_BATCH = Fallback("one by one", nullcontext)
TILES = Fallback("in tiles", nullcontext)


def asked(width: int = 1024, height: int = 1024) -> GenerationRequest:
    return GenerationRequest(prompt="x", width=width, height=height)


def failing(times: int, error: BaseException | None = None) -> tuple[list[int], "Making"]:
    calls: list[int] = []
    return calls, Making(times, error or torch.OutOfMemoryError("CUDA out of memory"), calls)


class Making:
    """Something that works when it is called once more than it fails."""

    def __init__(self, times: int, error: BaseException, calls: list[int]) -> None:
        self._times = times
        self._error = error
        self._calls = calls

    def __call__(self) -> str:
        self._calls.append(1)
        if len(self._calls) <= self._times:
            raise self._error
        return "made"


def climbed(making: Making, *reliefs: Fallback, room: MemoryBudget | None = None) -> tuple[str, RecordingWatch]:
    watch = RecordingWatch()
    with OutOfMemoryFallbacks(asked(), room or MemoryBudget(MODEL, cloud=False), watch) as ladder:
        return ladder.run(making, *reliefs), watch


def refusal(room: MemoryBudget, request: GenerationRequest) -> str:
    _, making = failing(9)
    with pytest.raises(OutOfMemory) as caught, OutOfMemoryFallbacks(request, room, RecordingWatch()) as ladder:
        ladder.run(making)
    return caught.value.detail


def test_what_fits_gives_up_nothing() -> None:
    calls, making = failing(0)

    assert climbed(making, SMALLER_BATCH, TILES)[1].warnings == []
    assert len(calls) == 1


def test_reliefs_are_taken_one_after_the_other_until_it_fits() -> None:
    calls, making = failing(1)

    made, watch = climbed(making, SMALLER_BATCH, TILES)

    assert (made, len(calls)) == ("made", 2)
    assert watch.warnings == ["memory was short: one by one"]


def test_what_has_been_given_up_is_not_given_up_again() -> None:
    calls, making = failing(2)
    watch = RecordingWatch()

    with OutOfMemoryFallbacks(asked(), MemoryBudget(MODEL, cloud=False), watch) as ladder:
        ladder.run(failing(1)[1], SMALLER_BATCH)
        with pytest.raises(OutOfMemory):
            ladder.run(making, SMALLER_BATCH)

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
def test_every_way_of_running_out_is_known(error: BaseException) -> None:
    assert climbed(failing(1, error)[1], TILES)[0] == "made"


def test_torch_says_so_on_this_machine() -> None:
    def too_much() -> None:
        torch.empty(2**60)

    with (
        pytest.raises(OutOfMemory),
        OutOfMemoryFallbacks(asked(), MemoryBudget(MODEL, cloud=False), RecordingWatch()) as ladder,
    ):
        ladder.run(too_much)


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    calls, making = failing(1, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

    with pytest.raises(RuntimeError, match="mat1"):
        climbed(making, TILES)
    assert len(calls) == 1


def test_everything_is_put_back_after_the_job() -> None:
    state = ["resident"]

    @contextmanager
    def offloaded() -> Iterator[None]:
        state.append("offloaded")
        yield
        state.append("resident")

    climbed(failing(1)[1], Fallback("offloaded", offloaded))

    assert state == ["resident", "offloaded", "resident"]


@contextmanager
def never_back() -> Iterator[None]:
    yield
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_model_that_cannot_be_put_back_costs_the_process_but_not_the_images() -> None:
    made, watch = climbed(failing(1)[1], Fallback("offloaded", never_back))

    assert made == "made"
    assert watch.restart_reasons == ["the model could not be put back after memory ran out"]


@pytest.mark.parametrize("error", [MemoryError(), torch.AcceleratorError("CUDA error: an illegal memory access")])
def test_a_process_that_was_damaged_does_no_other_job(error: BaseException) -> None:
    watch = RecordingWatch()
    room = MemoryBudget(MODEL, cloud=False)

    with pytest.raises((OutOfMemory, torch.AcceleratorError)), OutOfMemoryFallbacks(asked(), room, watch) as ladder:
        ladder.run(failing(1, error)[1])

    assert len(watch.restart_reasons) == 1


def test_a_device_that_was_merely_full_is_trusted_again() -> None:
    assert climbed(failing(1)[1], TILES)[1].retired == []


def test_the_models_own_size_is_named_where_nothing_was_made_yet() -> None:
    assert refusal(MemoryBudget(MODEL, cloud=False), asked(2048, 1024)) == (
        "The device has too little memory for 2048x1024 pixels; 720x360 should fit."
    )


def test_the_largest_that_was_made_is_named_in_the_shape_that_was_asked_for() -> None:
    room = MemoryBudget(MODEL, cloud=False)
    with OutOfMemoryFallbacks(asked(1024, 768), room, RecordingWatch()):
        pass

    assert "1252x624" not in refusal(room, asked(2048, 1024))
    assert "1248x624 should fit" in refusal(room, asked(2048, 1024))


def test_a_size_for_which_memory_has_failed_is_never_named() -> None:
    room = MemoryBudget(MODEL, cloud=False)
    refusal(room, asked(512, 512))

    assert "256x256 should fit" in refusal(room, asked(1024, 1024))


def test_the_cloud_is_named_where_there_is_one() -> None:
    assert refusal(MemoryBudget(MODEL, cloud=True), asked()).endswith(
        "512x512 should fit, and the backend flux-api makes 1024x1024."
    )


def test_nothing_of_a_failed_attempt_is_held_when_the_next_begins() -> None:
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

    with OutOfMemoryFallbacks(asked(), MemoryBudget(MODEL, cloud=False), RecordingWatch()) as ladder:
        ladder.run(make, TILES)

    assert alive == [False]


#: In a process of its own: what others left in the heap would be in the way.
FREEING = """
import ctypes, json, resource, psutil, torch
from worker.engines.diffusers.out_of_memory import free_memory, keep_freed_memory

def occupied():
    # Pages that the kernel had to clear for tensors of 64 MB in all, which are gone again.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(1 << 20) for _ in range(16)]
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# What glibc begins with; it learns from tensors that are freed, but not always enough.
ctypes.CDLL(None).mallopt(-3, 128 << 10)
as_it_comes = occupied()
keep_freed_memory()
# The first ones may find holes in which not all of them fit.
kept, resident = min(occupied() for _ in range(5)), psutil.Process().memory_info().rss
free_memory()
given_back = resident - psutil.Process().memory_info().rss
print(json.dumps([as_it_comes, kept, given_back, occupied()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries are left as they are")
def test_tensors_lie_where_others_lay_and_what_is_freed_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREEING], capture_output=True, text=True, check=True)

    as_it_comes, kept, given_back, after = json.loads(done.stdout)
    assert as_it_comes > 10_000
    assert kept < 100
    assert given_back > 48 << 20
    assert after > 10_000
