"""The spans of a job in a worker, named by OpenTelemetry's semantic conventions for messaging and generative AI."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from shared.jobs.job import Job
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
    """Return the span from accepting the job to recording its end.

    `job` is the job as it started; `ended` is None if another worker has it or will get it.
    """
    begin, started = _nanoseconds(job.created_at), _nanoseconds(job.started_at or job.created_at)
    error = ended.error.code if ended and ended.error else ""
    attributes = {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": job.backend.value,
        "messaging.message.id": job.id,
        "gen_ai.output.type": "image",
        "gen_ai.request.model": job.model or "",
        "gen_ai.request.choice.count": job.request.num_images,
        "imagegen.job.id": job.id,
        "imagegen.job.worker": job.worker or "",
        "imagegen.job.attempt": job.attempt,
        "imagegen.job.outcome": ended.state.value if ended else "left",
        "imagegen.job.width": job.request.width or 0,
        "imagegen.job.height": job.request.height or 0,
        "imagegen.job.steps": job.request.num_inference_steps or 0,
        "imagegen.job.batch_size": (ended and ended.timings.batch_size) or job.request.num_images,
    } | ({"error.type": error} if error else {})
    spans = (Span("wait", begin, started), *recorder.spans)
    return Span(
        f"process {job.backend}", begin, max(span.end_ns for span in spans), attributes, "consumer", error, spans
    )


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000_000)
