"""What the training steps share: a loop bounded by the clock, learning rates, one optimiser step."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

REPORT_STEPS = 100


@dataclass(frozen=True)
class Moment:
    step: int
    """Optimiser steps taken so far."""
    seconds: float
    share: float
    """Of the time to train, 0 at the start, 1 at the end."""


@dataclass(frozen=True)
class Descent:
    """One optimiser step after another, with the gradient cut to a length of 1."""

    optimiser: torch.optim.Optimizer
    """A parameter group may carry `pace`, a factor on the learning rate."""
    clipped: Sequence[torch.nn.Parameter]

    def step(self, loss: Tensor, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("pace", 1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.clipped, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()


def moments(minutes: float, clock: Callable[[], float] = time.monotonic) -> Iterator[Moment]:
    """One moment for each optimiser step, until the time is over."""
    budget, start = minutes * 60, clock()
    for step in itertools.count():
        elapsed = clock() - start
        if elapsed >= budget:
            return
        yield Moment(step, elapsed, elapsed / budget)


def warm_up(moment: Moment, steps: int) -> float:
    """A factor on the learning rate, rising to 1 over the first steps."""
    return min(1, (moment.step + 1) / steps)


def cosine(share: float) -> float:
    """A factor on the learning rate, falling from 1 to 0 as `share` goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


def bfloat16() -> torch.autocast:
    """Half precision for a forward pass; weights and gradients stay in float32."""
    return torch.autocast("cpu", torch.bfloat16)


def edges(error: Tensor) -> Tensor:
    """How much the error differs between neighbouring pixels: what blur costs."""
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return across + down


def report(moment: Moment, name: str, value: Tensor) -> None:
    """Print a line now and then."""
    if moment.step % REPORT_STEPS == 0:
        progress = f"{moment.share:4.0%}  step {moment.step:5}  {moment.seconds:5.0f} s"
        print(f"  {progress}  {name} {value.item():.4g}", flush=True)
