"""What each way to compute a denoiser gains: graphs, attention, compiled code, eight-bit floats."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bench.figures import Figure
from bench.gpu.machine import Machine
from bench.gpu.models import DENOISERS, RandomDenoiser, defaults
from bench.gpu.surviving import until_failure
from tests.worker.engines.diffusers.acceleration.recording_graphs import RecordingGraphs
from worker.engines.diffusers.acceleration import attention
from worker.engines.diffusers.acceleration.compiled_code import CompiledCode
from worker.engines.diffusers.acceleration.compiled_denoiser import compile_denoiser
from worker.engines.diffusers.acceleration.cuda_graphs import CudaGraphs
from worker.engines.diffusers.acceleration.decisions import Decisions
from worker.engines.diffusers.acceleration.eight_bit import is_possible, quantize_if_faster
from worker.engines.diffusers.acceleration.graph_backend import CudaGraphBackend
from worker.engines.diffusers.acceleration.sample_calls import SampleCall
from worker.engines.diffusers.acceleration.tensor_trees import tensors_in

#: Calls until a graph is in use.
CALLS = 4
#: About how long compiling may take on a machine with few cores; a whole U-Net takes longest.
COMPILE_SECONDS = {"SDXL": 150.0, "FLUX.1": 60.0}
#: Compiled with `--quick`, too: it takes a quarter of a minute.
QUICK = {"Klein 4B"}


@dataclass
class _Bench:
    model: RandomDenoiser
    module: torch.nn.Module
    call: SampleCall
    machine: Machine
    usual: float
    """Seconds of a plain call."""
    result: torch.Tensor
    """Of a plain call."""

    def ratio(self, name: str, seconds: float, detail: str = "") -> Figure:
        image = f"{seconds * self.model.steps:.3f} s for {self.model.steps} steps"
        return Figure(f"{self.model.name}: {name} / plain", seconds / self.usual, detail=f"{image} {detail}".strip())

    def difference(self, result: torch.Tensor) -> str:
        """How far a result is from the plain one, as a share of that one's deviation."""
        plain = self.result.float()
        return f"mean difference {((result.float() - plain).abs().mean() / plain.std()).item():.2g}"


def measure(machine: Machine, skip: Callable[[str], None]) -> Iterator[Figure]:
    for model in (model for model in DENOISERS if machine.wants(model.name)):
        if not machine.has_seconds(20):
            skip(f"{model.name}: there was no time left")
            continue
        if machine.device.type == "cuda" and torch.cuda.mem_get_info()[0] < model.gigabytes * 1.3e9:
            skip(f"{model.name}: it does not fit on this device")
            continue
        print(f"{model.name}, {machine.seconds_left():.0f} s left", flush=True)
        yield from until_failure(model.name, _measure(model, machine, skip), skip)
        machine.free_memory()


@torch.no_grad()
def _measure(model: RandomDenoiser, machine: Machine, skip: Callable[[str], None]) -> Iterator[Figure]:
    torch.manual_seed(0)
    with defaults(machine.device, torch.float32 if machine.is_tiny else model.dtype):
        module, call = model.create(machine.is_tiny)
    module.eval().requires_grad_(False)
    usual = call.seconds(module, machine.device)
    bench = _Bench(model, module, call, machine, usual, _first(call(module)))
    yield Figure(f"{model.name}: plain call", usual * 1000, "ms", detail=f"{usual * model.steps:.3f} s an image")
    yield from until_failure(f"{model.name}: CUDA graph", _graph(bench), skip)
    yield from until_failure(f"{model.name}: attention", _attention(bench), skip)
    if (machine.quick and model.name not in QUICK) or not machine.has_seconds(COMPILE_SECONDS.get(model.name, 40.0)):
        skip(f"{model.name} compiled: {'--quick' if machine.quick else 'there was no time left'}")
    else:
        yield from until_failure(f"{model.name}: compiled", _compiled(bench), skip)
    yield from until_failure(f"{model.name}: eight bits", _eight_bit(bench, skip), skip)
    torch.compiler.reset()


def _graph(bench: _Bench) -> Iterator[Figure]:
    device = bench.machine.device
    backend: Any = CudaGraphBackend(device) if device.type == "cuda" else RecordingGraphs()
    graphs = CudaGraphs(backend, Decisions(None))
    with graphs.active(bench.module, ()):
        for _ in range(CALLS):
            bench.call(bench.module)
        seconds = bench.call.seconds(bench.module, device)
        result = _first(bench.call(bench.module))
    used = "" if graphs.count else ", not used: plain calls"
    difference = (result - bench.result).abs().max().item()
    graphs.drop()
    yield bench.ratio("CUDA graph", seconds, f"greatest difference {difference:g}{used}")


def _attention(bench: _Bench) -> Iterator[Figure]:
    candidate = attention.candidate_for(bench.machine.device) or ("native" if bench.machine.is_tiny else None)
    if candidate and not bench.model.name.startswith("SDXL"):
        with attention.using(candidate):
            seconds = bench.call.seconds(bench.module, bench.machine.device)
            result = _first(bench.call(bench.module))
        yield bench.ratio(f"attention by {candidate}", seconds, bench.difference(result))


def _compiled(bench: _Bench) -> Iterator[Figure]:
    device = bench.machine.device
    # The compiler for CPUs takes a minute for each.
    backend = "aot_eager" if bench.machine.is_tiny else "inductor"
    run = lambda: bench.call(bench.module)  # noqa: E731
    compiled = compile_denoiser(bench.module, [run], device, CompiledCode(None, device), backend)
    with compiled.active():
        forward = compiled.forward or bench.module
        seconds = bench.call.seconds(forward, device)
        result = _first(bench.call(forward))
    detail = f"{bench.difference(result)}, {compiled.seconds:.0f} s to compile"
    yield bench.ratio("compiled", seconds, detail)


def _eight_bit(bench: _Bench, skip: Callable[[str], None]) -> Iterator[Figure]:
    device, compiled = bench.machine.device, not bench.machine.quick
    if not is_possible(device):
        skip(f"{bench.model.name} in eight bits: this card or installation has no such arithmetic")
        return
    decisions = Decisions(None)
    is_used = quantize_if_faster(bench.module, lambda: bench.call(bench.module), device, decisions, compiled=compiled)
    if not is_used:
        known = decisions.get("eight-bit", compiled)
        skip(f"{bench.model.name} in eight bits: a block takes {known.ratio if known else '?'} of the time")
        return
    seconds = bench.call.seconds(bench.module, device)
    yield bench.ratio("eight-bit floats", seconds, bench.difference(_first(bench.call(bench.module))))


def _first(result: object) -> torch.Tensor:
    return next(iter(tensors_in(result))).clone()
