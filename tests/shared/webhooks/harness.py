"""The outbox, jobs that fill it and a sender that empties it: everything real except the processes."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from pydantic import SecretStr

from shared.errors import OutOfMemory
from shared.jobs.admission import AdmissionOutcome, QueueLimits
from shared.jobs.job import Image, Job, JobError, Progress, Timings
from shared.jobs.operations import Jobs
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend
from shared.net.outbound import OutboundClient
from shared.redis.store import Operation, Store, connect
from shared.settings.signing import SigningSettings, parse_signing_keys
from shared.storage.folder import FolderStore
from shared.storage.images import ImageStore
from shared.webhooks.deliveries import Delivery
from shared.webhooks.outbox import ClaimedWebhooks, DeliveryOutcome, Webhook, Webhooks
from tests.shared.webhooks.receiver import SECRET
from worker.housekeeper.image_links import JobLinks
from worker.housekeeper.retry_policy import RetryPolicy
from worker.housekeeper.signing import WebhookSigner
from worker.housekeeper.webhook_dispatcher import WebhookDispatcher
from worker.housekeeper.webhook_sender import WebhookSender

_numbers = itertools.count()
URL = "http://127.0.0.1:9/hook?token=secret-of-the-caller"


def expire_waits(client: redis.Redis, begin: str, queue: str) -> None:
    """End all waits of a queue: for an attempt, for its turn and for leases."""
    origin, _, owner = queue.partition(" ")
    for name in (f"queue:{queue}", f"flying:{queue}", f"flying:{owner}"):
        ids: Any = client.zrange(begin + name, 0, -1)
        if ids:
            # Those that were sent meanwhile are not added again.
            client.zadd(begin + name, dict.fromkeys(ids, 1), xx=True)
    client.hdel(f"{begin}health:{queue}", "until")
    client.hdel(f"{begin}down:{origin}", "until", "trial")
    if client.exists(f"{begin}queue:{queue}"):
        client.zadd(f"{begin}due:{owner}", {queue: 1})
        client.zadd(f"{begin}owners", {owner: 1})
    client.publish(f"{begin}news", queue)


class OutboxHarness:
    def __init__(self, redis_url: str, folder: Path) -> None:
        self.prefix = f"outbox{next(_numbers)}:"
        self.store = Store(connect(redis_url))
        self.news = connect(redis_url)
        self.jobs = Jobs(self.prefix)
        self.webhooks = Webhooks(self.prefix)
        self.images = ImageStore(FolderStore(folder))

    def run(self, operation: Operation[Any]) -> Any:
        return self.store.run(operation)

    @property
    def keys(self) -> set[str]:
        """Names of all webhook keys except the health of receivers."""
        begin = f"{self.prefix}webhooks:"
        found: set[str] = {key.removeprefix(begin) for key in self.store.client.scan_iter(f"{begin}*")}
        return {key for key in found if not key.startswith(("health:", "down:"))}

    def accepted(self, owner: str = "", **fields: Any) -> Job:
        request = GenerationRequest.model_validate({"prompt": "x", "webhook_url": URL, **fields})
        job = Job.new(request, Backend.NULL, datetime.now(UTC), owner, "http://images.example.com")
        admission = self.run(self.jobs.create(job, QueueLimits(10_000, 10_000)))
        assert admission.outcome is AdmissionOutcome.CREATED
        return job

    def started(self, job: Job) -> Job:
        return self._moved(job, job.start("null", "worker", datetime.now(UTC)))

    def step(self, job: Job, step: int) -> None:
        self.run(self.jobs.report_progress(job, Progress(step=step, steps=4, fraction=step / 4)))

    def requeued(self, job: Job) -> Job:
        queued = job.requeue(lost=True)
        assert self.run(self.jobs.move(job, queued))
        return queued

    def succeeded(self, job: Job, *files: bytes) -> Job:
        images = tuple(self._saved(job, index, data) for index, data in enumerate(files))
        return self._moved(job, job.succeed(images, Timings(), datetime.now(UTC)))

    def failed(self, job: Job) -> Job:
        return self._moved(job, job.fail(JobError.from_error(OutOfMemory()), datetime.now(UTC)))

    def cancelled(self, job: Job) -> Job:
        return self._moved(job, job.cancel(datetime.now(UTC)))

    def done(self, **fields: Any) -> Job:
        """A job that has just succeeded."""
        return self.succeeded(self.started(self.accepted(**fields)))

    def _moved(self, old: Job, new: Job) -> Job:
        assert self.run(self.jobs.move(old, new))
        return new

    def _saved(self, job: Job, index: int, data: bytes) -> Image:
        self.images.save(job, index, data)
        digest = hashlib.sha256(data).hexdigest()
        return Image(index=index, media_type="image/png", width=1, height=1, seed=1, bytes=len(data), sha256=digest)

    def claim(self, limit: int = 100) -> tuple[Webhook, ...]:
        claimed: ClaimedWebhooks = self.run(self.webhooks.claim(limit))
        return claimed.webhooks

    def settle(self, webhook: Webhook, outcome: DeliveryOutcome) -> None:
        self.run(self.webhooks.settle(webhook, outcome))

    def expire_waits(self, queue: str) -> None:
        expire_waits(self.store.client, f"{self.prefix}webhooks:", queue)

    def deliveries(self, job: Job) -> dict[str, Delivery]:
        snapshot = self.run(self.jobs.read(job.id))
        return {delivery.event: delivery for delivery in snapshot.deliveries}

    def sender(self, allow: Sequence[str], secrets: str = SECRET, **fields: Any) -> WebhookSender:
        return WebhookSender(
            client=OutboundClient(allow, proxy=fields.pop("proxy", None)),
            signer=WebhookSigner(parse_signing_keys(SecretStr(secrets)) if secrets else ()),
            images=self.images,
            links=JobLinks(SigningSettings(redis_prefix=self.prefix), self.store).of,
            inline_max_bytes=fields.pop("inline_max_bytes", 1000),
            user_agent="imagegen/test",
            now=fields.pop("now", lambda: datetime.now(UTC)),
            **fields,
        )

    @contextmanager
    def sending(
        self, sender: WebhookSender, schedule: Sequence[float] = (0.05,) * 3, threads: int = 16
    ) -> Iterator[None]:
        dispatcher = WebhookDispatcher(self.store, self.news, self.webhooks, sender, RetryPolicy(schedule), threads)
        dispatcher.start()
        yield
        dispatcher.stop()
