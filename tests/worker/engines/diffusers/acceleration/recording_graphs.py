"""Graphs for tests without a GPU: a replay computes again, from the captured arguments into the captured results."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from worker.engines.diffusers.acceleration.graph_backend import CapturedCall, CudaGraphBackend
from worker.engines.diffusers.acceleration.tensor_trees import tensors_in


class RecordedGraph(CapturedCall):
    def __init__(self, call: Callable[[], Any], backend: "RecordingGraphs") -> None:
        self.output = call()
        self._call, self._backend = call, backend

    def replay(self) -> None:
        self._backend.replays += 1
        for static, computed in zip(tensors_in(self.output), tensors_in(self._call()), strict=True):
            static.copy_(computed)


@dataclass
class RecordingGraphs(CudaGraphBackend):
    """Stands for a CudaGraphBackend, and counts. `share` is the time of a replay as a share of a usual call."""

    share: float = 0.5
    room: int = 1 << 40
    device: torch.device = field(default=torch.device("cpu"))
    captures: int = 0
    replays: int = 0
    releases: int = 0
    fail: Callable[[], None] = lambda: None
    is_broken: Callable[[], None] = lambda: None

    def capture(self, call: Callable[[], Any]) -> RecordedGraph:
        self.captures += 1
        self.fail()
        return RecordedGraph(call, self)

    def seconds(self, call: Callable[[], Any]) -> tuple[float, Any]:
        before = self.replays
        result = call()
        return (self.share if self.replays > before else 1.0), result

    def room_bytes(self) -> int:
        return self.room

    def allocated_bytes(self, call: Callable[[], Any]) -> tuple[int, Any]:
        begin = time.perf_counter_ns()
        result = call()
        return time.perf_counter_ns() - begin, result

    def release(self) -> None:
        self.releases += 1

    def require_working_device(self) -> None:
        self.is_broken()
