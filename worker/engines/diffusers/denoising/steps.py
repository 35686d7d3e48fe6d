"""Watches steps where a pipeline calls its scheduler, because not every pipeline has a callback."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from worker.engines.base import OnStep, Step
from worker.images.values import Pixels

#: Gets the index of the next timestep and the latents, and returns the latents to go on with.
ChangeLatents = Callable[[int, torch.Tensor], torch.Tensor]


def seeded_generator(seed: int) -> torch.Generator:
    """For one image. On the CPU, so that the noise is the same on every device, alone or in a batch."""
    return torch.Generator("cpu").manual_seed(seed)


def watch_steps(
    pipe: Any,
    steps: int,
    on_step: OnStep,
    preview: Callable[[torch.Tensor], Pixels],
    change: ChangeLatents | None = None,
) -> None:
    """Report each step of the pipeline's scheduler, which must be new. `steps` is how many of them count.

    A cancelled job raises out of it. Setting `pipe._interrupt` instead would still decode a half-finished image.
    """
    scheduler, calls = pipe.scheduler, 0
    step = scheduler.step

    @functools.wraps(step)
    def watched(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        result = step(*arguments, **named)
        calls += 1
        timesteps, latents = len(scheduler.timesteps), result[0]
        # Only the last ones of the schedule, if the pipeline starts from an image.
        planned = getattr(pipe, "num_timesteps", None) or timesteps
        # Some schedulers run the model more often than once per step: Heun's nearly twice.
        current = max(1, calls * steps // planned)
        on_step(
            Step(current, steps, lambda index: preview(latents[index][None]) if 0 <= index < len(latents) else None)
        )
        return (change(timesteps - planned + calls, latents), *result[1:]) if change else result

    scheduler.step = watched


def steps_of_run(on_step: OnStep, run: int, runs: int, first_image: int) -> OnStep:
    """Reports the steps of one of several equally long pipeline runs as steps of the whole job.

    `first_image` is the index within the job of the first image of this run.
    """

    def on_run_step(step: Step) -> None:
        def render_preview(index: int) -> Pixels | None:
            return step.render_preview(index - first_image) if step.render_preview else None

        on_step(Step(run * step.steps + step.step, runs * step.steps, render_preview))

    return on_run_step
