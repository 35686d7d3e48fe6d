"""Batches: which jobs can be rendered together, and one watch for all of them."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from shared.jobs.job import ProviderTask
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import PromptSyntax
from worker.engines.base import JobWatch, Step

#: Fields in which requests of one batch may differ. All others must be equal, also fields that are added later.
_VARYING_FIELDS = frozenset(
    {"prompt", "negative_prompt", "seed", "num_images", "image", "mask", "mask_mode", "mask_blur"}
    | {"mask_fill", "resize_mode", "output_width", "output_height", "output_quality"}
)
#: Every token has at least one byte, and encoders take 75 of them at a time, that of the starter model 30.
SHORT_PROMPT_BYTES = 30
#: Fields that do not change the pixels; those of the model are compared as the job's model.
NON_IMAGE_FIELDS = frozenset(
    {"output_format", "response_format", "label", "metadata", "priority", "deadline_seconds", "backend"}
    | {"model", "bfl_model"}
    | {"webhook_url", "webhook_events", "webhook_inline_images", "previews"}
)


def are_alike(first: GenerationRequest, second: GenerationRequest) -> bool:
    """Whether resolved requests to the same model can be rendered in one batch."""
    if len(first.image) != len(second.image) or (first.mask is None) != (second.mask is None):
        return False
    # Only batches of one have several passes, or none.
    if any(_has_own_passes(request) for request in (first, second)):
        return False
    if first.prompt_syntax is PromptSyntax.WEIGHTED and not _are_equally_long(first, second):
        return False
    fields = GenerationRequest.model_fields.keys() - _VARYING_FIELDS - NON_IMAGE_FIELDS
    return all(getattr(first, name) == getattr(second, name) for name in fields)


def _has_own_passes(request: GenerationRequest) -> bool:
    return request.second_pass is not None or request.resize_only or request.mask_padding is not None


def _are_equally_long(first: GenerationRequest, second: GenerationRequest) -> bool:
    """Whether weighted prompts surely have equally long embeddings: a longer one would lengthen those of its batch."""
    texts = [(request.prompt, request.negative_prompt or "") for request in (first, second)]
    is_short = (len(text.encode()) <= SHORT_PROMPT_BYTES and "BREAK" not in text for text in (*texts[0], *texts[1]))
    return texts[0] == texts[1] or all(is_short)


class BatchTooSlow(Exception):
    """A batch has used up the time that one job may take."""


class BatchWatch:
    """The watches of a batch as one. Each may end its own job; the others go on."""

    def __init__(
        self, watches: Sequence[JobWatch], image_counts: Sequence[int], time_limit_seconds: float = math.inf
    ) -> None:
        """`image_counts` is how many images each job has; the batch holds them in this order."""
        self._deadline = time.monotonic() + time_limit_seconds
        self._watches = watches
        self._offsets = [sum(image_counts[:number]) for number in range(len(image_counts))]
        self.ended: dict[int, Exception] = {}
        """What the watch of a job raised, by the number of the job."""

    def for_job(self, job: int) -> JobWatch:
        return self._watches[job]

    @property
    def provider_tasks(self) -> tuple[ProviderTask, ...]:
        return ()

    def on_step(self, step: Step) -> None:
        def report(number: int, watch: JobWatch) -> None:
            render, offset = step.render_preview, self._offsets[number]
            render_own = (lambda index: render(offset + index)) if render is not None else None
            watch.on_step(replace(step, render_preview=render_own))

        self._call_each(report)

    def check(self) -> None:
        self._call_each(lambda _, watch: watch.check())

    def save_provider_tasks(self, tasks: tuple[ProviderTask, ...]) -> None:
        raise TypeError(f"a batch has no provider tasks, but {len(tasks)} were to be saved")

    def add_warning(self, warning: str) -> None:
        self._call_each(lambda _, watch: watch.add_warning(warning))

    def request_restart(self, reason: str) -> None:
        self._watches[0].request_restart(reason)

    def _call_each(self, call: Callable[[int, JobWatch], Any]) -> None:
        """Raise BatchTooSlow at the deadline, and what ended the last job once all have ended."""
        if time.monotonic() >= self._deadline:
            raise BatchTooSlow("the batch takes longer than one job may")
        for number, watch in enumerate(self._watches):
            if number in self.ended:
                continue
            try:
                call(number, watch)
            except Exception as error:
                self.ended[number] = error
                if len(self.ended) == len(self._watches):
                    raise
