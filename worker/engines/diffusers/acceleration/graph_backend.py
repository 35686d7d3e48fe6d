"""Captures the kernels of a call as a CUDA graph, which one launch replays."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from worker.engines.diffusers.acceleration.sample_calls import timed
from worker.engines.diffusers.memory.placement import usable_bytes

#: Before a capture, on a stream of its own: libraries set up their workspaces and choose algorithms.
WARM_UPS = 2


@dataclass
class CapturedCall:
    graph: torch.cuda.CUDAGraph
    output: Any
    """What the call returned; a replay overwrites its tensors."""

    def replay(self) -> None:
        self.graph.replay()


class CudaGraphBackend:
    """All graphs of a model share one memory pool: they never run at the same time."""

    #: Of the device's memory: what graphs may leave free at least, so that decoding fits.
    RESERVED_SHARE = 0.1

    def __init__(self, device: torch.device) -> None:
        # With its number, as tensors name it.
        self.device = torch.empty(0, device=device).device
        self._pool: Any = None

    def capture(self, call: Callable[[], Any]) -> CapturedCall:
        """Raises what the call raises, and RuntimeError if it does something that no graph can hold."""
        with torch.cuda.device(self.device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    call()
            current.wait_stream(side)
            torch.cuda.synchronize()
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads may ask the device for its free memory meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    output = call()
            finally:
                # A refused capture leaves the thread on its own stream, which shares no free memory with the usual one.
                torch.cuda.set_stream(current)
            return CapturedCall(graph, output)

    def seconds(self, call: Callable[[], Any]) -> tuple[float, Any]:
        """How long the call takes, launching and computing, and its result."""
        return timed(call, self.device)

    def room_bytes(self) -> int:
        """How much memory new graphs may still take."""
        total = torch.cuda.get_device_properties(self.device).total_memory
        return int((usable_bytes(self.device) or 0) - total * self.RESERVED_SHARE)

    def allocated_bytes(self, call: Callable[[], Any]) -> tuple[int, Any]:
        """How much memory the call takes at its peak, and its result."""
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        result = call()
        return torch.cuda.max_memory_allocated(self.device) - before, result

    def release(self) -> None:
        """Return the memory of dropped graphs."""
        self._pool = None
        torch.cuda.empty_cache()

    def require_working_device(self) -> None:
        """After a capture that failed. Raises what the device raises if that has broken it."""
        gc.collect()
        # It may have left memory behind that belongs to no graph.
        self._pool = None
        with torch.cuda.device(self.device):
            torch.cuda.synchronize()
            # PyTorch's random numbers stay in the mode of the failed capture (seen with 2.11: "Offset increment outside
            # graph capture") until another capture ends well.
            number = torch.zeros(1, device=self.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                number.add_(1)
            graph.replay()
            torch.rand(1, device=self.device)
            number.item()
