"""What a job goes through in a worker, and when: the parts of its trace."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from shared.jobs.requests import Job
from shared.observability.tracing import Span


class SpanRecorder:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    @contextmanager
    def record(self, name: str) -> Iterator[None]:
        begin = time.time_ns()
        try:
            yield
        finally:
            self.spans.append(Span(name, begin, time.time_ns()))


def job_span(job: Job, ended: Job | None, recorder: SpanRecorder) -> Span:
    """From when the job was accepted until it was on record as ended; `ended` is None where it went to somebody else.

    `job` is the job as it was started.
    """
    begin, started = _nanoseconds(job.created_at), _nanoseconds(job.started_at or job.created_at)
    attributes = {
        "imagegen.job.id": job.id,
        "imagegen.job.backend": job.backend.value,
        "imagegen.job.model": job.model or "",
        "imagegen.job.worker": job.worker or "",
        "imagegen.job.attempt": job.attempt,
        "imagegen.job.outcome": ended.state.value if ended else "left",
        "imagegen.job.images": job.request.num_images,
        "imagegen.job.width": job.request.width or 0,
        "imagegen.job.height": job.request.height or 0,
        "imagegen.job.steps": job.request.num_inference_steps or 0,
        "imagegen.job.batch_size": (ended and ended.timings.batch_size) or job.request.num_images,
    }
    error = ended.error.code if ended and ended.error else ""
    parts = (Span("wait", begin, started), *recorder.spans)
    return Span("job", begin, max(part.end for part in parts), attributes, "consumer", error, parts)


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000_000)
