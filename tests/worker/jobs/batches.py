"""Helpers for tests of batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.errors import OutOfMemory
from shared.jobs.job import Job
from shared.jobs.requests import GenerationRequest
from tests.worker.bench import Bench, wake
from worker.engines.base import JobWatch, MultiJobWatch
from worker.engines.null import NullEngine
from worker.images.png import PngEncoder
from worker.images.values import Inputs, RenderedImage


@dataclass
class CountingEngine(NullEngine):
    """The null engine, which records the size of each batch."""

    batches: list[int] = field(default_factory=list)
    fails: bool = False
    """Whether batches fail."""
    knows_no_capacity: bool = False
    """Whether it cannot tell its batch capacity."""

    def batch_capacity(self, request: GenerationRequest) -> int:
        if self.knows_no_capacity:
            raise RuntimeError("the device does not answer")
        return super().batch_capacity(request)

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        self.batches.append(1)
        return super().generate(request, inputs, watch)

    def generate_batch(
        self, requests: Sequence[GenerationRequest], inputs: Sequence[Inputs], watch: MultiJobWatch
    ) -> Sequence[Sequence[RenderedImage]]:
        self.batches.append(len(requests))
        if self.fails:
            raise OutOfMemory
        return super().generate_batch(requests, inputs, watch)


def run(bench: Bench, engine: NullEngine, max_batch_size: int = 4, **parts: Any) -> None:
    wake(bench.runner(engine, max_batch_size=max_batch_size, **parts))


def submit_all(bench: Bench, *requests: dict[str, Any]) -> list[Job]:
    return [bench.submit(**request) for request in requests]


def scene(turned: int = 0, width: int = 64) -> bytes:
    """A PNG file of coloured grain."""
    pixels = np.random.default_rng(1).integers(0, 256, (64, width, 3), np.uint8)
    return PngEncoder().encode(np.ascontiguousarray(np.rot90(pixels, turned // 90)))


def states(bench: Bench, jobs: Sequence[Job]) -> list[str]:
    return [bench.read(job).state for job in jobs]
