"""A job as the events of the OpenAI API: partial images while it runs, then the finished ones."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from api.delivery.events import retry_until_available
from api.delivery.waiting import Submitted
from api.problems import Problem, failed_job_problem, problem_of
from api.protocols.openai.answers import description
from api.protocols.openai.errors import error_object
from api.protocols.openai.translation import ImageCall
from api.services import Services
from shared.errors import ImagegenError, NotFinished
from shared.jobs.job import Image, Job
from shared.jobs.snapshots import JobEvent

#: Keeps proxies from closing a silent stream.
HEARTBEAT = b": heartbeat\n\n"


class JobStream:
    """The events of one job."""

    def __init__(self, services: Services, call: ImageCall, submitted: Submitted) -> None:
        self._services = services
        self._call = call
        self._submitted = submitted
        self._num_partial = 0

    async def events(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._events():
                yield part
        except ImagegenError as error:
            # The answer has started, so its status can no longer tell.
            yield self._error(problem_of(error))

    async def _events(self) -> AsyncIterator[bytes]:
        async for event in self._submitted.listener.events():
            if event is None:
                yield HEARTBEAT
            elif event.type == "preview":
                yield self._partial(event)
            elif event.type == "done":
                async for part in self._completed():
                    yield part
                return
        raise NotFinished(self._submitted.job_id)

    def _error(self, problem: Problem) -> bytes:
        return _event("error", {"error": error_object(problem, self._submitted.job_id)})

    def _partial(self, event: JobEvent) -> bytes:
        preview, request = json.loads(event.data), self._submitted.job.request
        width, height = request.output_width or request.width, request.output_height or request.height
        data = {
            "b64_json": preview["b64_json"],
            "partial_image_index": self._num_partial,
            "created_at": int(time.time()),
            "background": "opaque",
            "output_format": preview["media_type"].removeprefix("image/"),
            "quality": self._call.parameters.reported_quality,
            "size": f"{width}x{height}" if width and height else "auto",
        }
        self._num_partial += 1
        return _event(f"{self._call.call}.partial_image", data)

    async def _completed(self) -> AsyncIterator[bytes]:
        """Raises ImageNotFound."""
        job = (await retry_until_available(lambda: self._services.read_job(self._submitted.job_id))).job
        if job.error is not None:
            yield self._error(failed_job_problem(job.error))
            return
        for image in await self._services.inline_images.required(job):
            render = partial(self._completed_event, job, image)
            async for part in self._services.inline_images.chunks(job, render, [image]):
                yield part

    def _completed_event(self, job: Job, image: Image, inline: Mapping[int, str]) -> str:
        finished = int((job.finished_at or job.created_at).timestamp())
        data = {"b64_json": inline[image.index], "created_at": finished}
        return _event(
            f"{self._call.call}.completed", {**data, **description(job, image, self._call.parameters)}
        ).decode()


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()
