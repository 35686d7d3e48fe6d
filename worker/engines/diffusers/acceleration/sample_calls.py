"""Calls of a denoiser as the pipeline makes them, recorded to be timed again in other ways."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from worker.engines.diffusers.acceleration.tensor_trees import mapped

#: Timed calls of each way; the fastest counts, because everything else on a machine only slows things down.
TIMES = 3


@dataclass(frozen=True)
class SampleCall:
    """One call with everything that it needs."""

    args: Any
    kwargs: Any

    @classmethod
    def record(cls, module: torch.nn.Module, run: Callable[[], object]) -> "SampleCall":
        """The last call of `module` in `run`. Raises LookupError if there is none."""
        calls: list[tuple[Any, Any]] = []

        def keep(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
            calls[:] = [(mapped(args, torch.clone), mapped(kwargs, torch.clone))]

        handle = module.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            run()
        finally:
            handle.remove()
        if not calls:
            raise LookupError("the pipeline did not call the denoiser")
        return cls(*calls[0])

    @torch.no_grad()
    def __call__(self, forward: Callable[..., Any]) -> Any:
        return forward(*self.args, **self.kwargs)

    def seconds(self, forward: Callable[..., Any], device: torch.device) -> float:
        """Of one call, once everything is set up."""
        self(forward)
        return min(timed(lambda: self(forward), device)[0] for _ in range(TIMES))


def timed(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """How long the call takes, launching and computing, and its result."""
    _wait_for(device)
    begin = time.perf_counter()
    result = call()
    _wait_for(device)
    return time.perf_counter() - begin, result


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
