"""What the tools do, for the caller of one request."""

import asyncio
import json
import re
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Request

from api.delivery.events import retry_until_available
from api.delivery.waiting import submit
from api.edge.authentication import Caller
from api.field_errors import invalid_field
from api.intake.admission import cancel_job
from api.intake.idempotency import IdempotencyScope
from api.intake.json_request import StartedUploads, request_from_fields
from api.intake.submissions import Submission
from api.intake.uploads import RequestUploads
from api.services import Services
from shared.errors import ImageNotFound, InvalidTransition
from shared.jobs.snapshots import JobEvent, JobSnapshot
from shared.jobs.types import ApiProtocol

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context

#: Clients give up after 60 seconds.
WAIT_SECONDS = 45
#: The image of an earlier job: its id, and which of its images.
_JOB_IMAGE = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:/(\d{1,2}))?")


@dataclass(frozen=True)
class BodyImages:
    """The images of a message that are too long for its arguments."""

    uploads: RequestUploads
    started: StartedUploads


@dataclass(frozen=True)
class Call:
    """A call of a tool."""

    http: Request
    services: Services
    caller: Caller
    images: BodyImages
    context: "Context[Any, Any]"

    @classmethod
    def of(cls, context: "Context[Any, Any]", services: Services) -> "Call":
        http = context.request_context.request
        assert isinstance(http, Request)  # noqa: S101 - there is no other transport
        return cls(http, services, http.state.caller, http.state.body_images, context)

    async def find(self, job_id: str) -> JobSnapshot:
        """Raises JobNotFound also for jobs of others."""
        return await self.services.read_job(job_id, self.caller.visible_owner)

    async def generate(self, fields: dict[str, Any]) -> JobSnapshot:
        """Submit a job and wait for it. Raises whatever admission raises."""
        services, http, images = self.services, self.http, self.images
        for name in ("image", "mask"):
            if source := _JOB_IMAGE.fullmatch(fields.get(name, "")):
                fields[name] = await self._reuse(source, name)
        request = await request_from_fields(http, fields, images.uploads, images.started)
        scope = IdempotencyScope(self.caller, None, None)
        submission = Submission(http, services, scope, request, images.uploads, ApiProtocol.MCP)
        with ExitStack() as listeners:
            submitted = await submit(submission, listeners)
            return await self._follow(submitted.job_id, WAIT_SECONDS)

    async def wait(self, job_id: str, seconds: int) -> JobSnapshot:
        await self.find(job_id)
        with self.services.stream_limit.waiting_slot(self.caller.client_id):
            return await self._follow(job_id, seconds)

    async def cancel(self, job_id: str) -> JobSnapshot:
        """A job that has ended stays as it is."""
        await self.find(job_id)
        with suppress(InvalidTransition):
            return await cancel_job(self.services, job_id)
        return await self.services.read_job(job_id)

    async def _follow(self, job_id: str, seconds: int) -> JobSnapshot:
        """The job once it has ended, or as it is after so many seconds."""
        services = self.services
        with services.event_hub.listen(job_id) as listener, suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for event in listener.events():
                    if event is not None:
                        await self._report(event)
        return await retry_until_available(lambda: services.read_job(job_id))

    async def _report(self, event: JobEvent) -> None:
        """Progress keeps clients from giving up."""
        if event.type == "progress":
            progress = json.loads(event.data)
            message = f"step {progress['step']} of {progress['steps']}"
            await self.context.report_progress(progress["fraction"], 1.0, message)

    async def _reuse(self, source: re.Match[str], name: str) -> str:
        """Store the image of an earlier job again, as an input of this one."""
        job_id, index = source[1], int(source[2] or 0)
        try:
            chunks = await self.services.job_images.read(job_id, index, self.caller.visible_owner)
        except ImageNotFound:
            raise invalid_field(f"/{name}", f"names an image that job {job_id} does not have") from None
        return await self.images.uploads.store(chunks, f"/{name}")
