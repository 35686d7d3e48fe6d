"""Several jobs rendered in one go: which ones may be, and who follows each of them meanwhile."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from shared.jobs.job import ProviderTask
from shared.jobs.requests import GenerationRequest
from worker.engines.base import JobWatch, Step

#: What each of several requests that are rendered in one go may have of its own. All else must be the same: also what
#: nobody has thought of here.
_OWN = frozenset({"prompt", "negative_prompt", "seed", "num_images", "image", "mask"})
NOT_OF_THE_IMAGE = frozenset(
    {"output_format", "response_format", "label", "metadata", "priority", "deadline_seconds", "backend"}
    | {"webhook_url", "webhook_events", "webhook_inline_images"}
)


def are_alike(first: GenerationRequest, second: GenerationRequest) -> bool:
    """Whether resolved requests can be rendered in one go."""
    if len(first.image) != len(second.image) or (first.mask is None) != (second.mask is None):
        return False
    fields = GenerationRequest.model_fields.keys() - _OWN - NOT_OF_THE_IMAGE
    return all(getattr(first, name) == getattr(second, name) for name in fields)


class BatchTooSlow(Exception):
    """Jobs that are rendered together have used up the time that one of them may take."""


class BatchWatch:
    """Several watches as one. Each may end its own job; the others go on."""

    def __init__(
        self, watches: Sequence[JobWatch], images: Sequence[int], time_limit_seconds: float = math.inf
    ) -> None:
        """`images` is how many each job has; in the one go they lie in this order."""
        self._deadline = time.monotonic() + time_limit_seconds
        self._watches = watches
        self._firsts = [sum(images[:number]) for number in range(len(images))]
        self.ended: dict[int, Exception] = {}
        """By the number of the job: what its watch raised."""

    def for_job(self, job: int) -> JobWatch:
        return self._watches[job]

    @property
    def provider_tasks(self) -> tuple[ProviderTask, ...]:
        return ()

    def on_step(self, step: Step) -> None:
        def tell(number: int, watch: JobWatch) -> None:
            preview, first = step.render_preview, self._firsts[number]
            own = (lambda index: preview(first + index)) if preview is not None else None
            watch.on_step(replace(step, render_preview=own))

        self._each(tell)

    def check(self) -> None:
        self._each(lambda _, watch: watch.check())

    def save_provider_tasks(self, tasks: tuple[ProviderTask, ...]) -> None:
        raise TypeError(f"{len(tasks)} tasks of a provider: what is bought is bought for one job")

    def add_warning(self, warning: str) -> None:
        self._each(lambda _, watch: watch.add_warning(warning))

    def request_restart(self, reason: str) -> None:
        self._watches[0].request_restart(reason)

    def _each(self, tell: Callable[[int, JobWatch], Any]) -> None:
        """Raises what ended the last job, once all have ended, and BatchTooSlow."""
        if time.monotonic() >= self._deadline:
            raise BatchTooSlow("they take longer than one may")
        for number, watch in enumerate(self._watches):
            if number in self.ended:
                continue
            try:
                tell(number, watch)
            except Exception as error:
                self.ended[number] = error
                if len(self.ended) == len(self._watches):
                    raise
