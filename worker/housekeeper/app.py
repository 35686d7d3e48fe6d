"""The housekeeper: requeues stranded jobs, applies retention and sends webhooks."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version

from shared.errors import StorageFull, StorageUnavailable, StoreUnavailable
from shared.jobs.housekeeping import JobHousekeeping
from shared.jobs.operations import Jobs
from shared.net.allowlist import WAIT_NODE_PATH, ReceiverHeader, parse_receiver_headers
from shared.net.outbound import OutboundClient
from shared.observability.tracing import StartTracing
from shared.redis.store import Store, connect
from shared.settings.housekeeper import HousekeeperSettings
from shared.settings.service import Settings
from shared.settings.signing import parse_signing_keys
from shared.storage import WEBHOOK_TIMEOUTS, WORKER_TIMEOUTS, open_storage
from shared.storage.images import ImageStore
from shared.webhooks.outbox import Webhooks
from worker.housekeeper.clock_guard import ClockGuard
from worker.housekeeper.image_links import JobLinks
from worker.housekeeper.leases import Reaper
from worker.housekeeper.ownership import Ownership
from worker.housekeeper.retention import Retention, RetentionRules
from worker.housekeeper.retry_policy import RetryPolicy
from worker.housekeeper.signing import WebhookSigner
from worker.housekeeper.webhook_dispatcher import WebhookDispatcher
from worker.housekeeper.webhook_sender import WebhookSender
from worker.records.recovery import JobRecovery

logger = logging.getLogger(__name__)

#: Seconds between rounds. A job of a dead worker waits for at most LEASE_MS and two rounds of the first.
REAP_SECONDS, RETENTION_SECONDS = 4.0, 600.0
#: More days than any image is old; larger settings would exceed what dates can express.
MAX_DAYS = 36_500
#: How often the liveness file is touched; see worker.alive.
TOUCH_SECONDS = 2.0


class Housekeeper:
    """Any number may run: every change is a compare-and-set, and webhooks are claimed under leases."""

    def __init__(self, settings: HousekeeperSettings, start_tracing: StartTracing) -> None:
        store = Store(connect(settings.redis_url))
        jobs, housekeeping = Jobs(settings.redis_prefix), JobHousekeeping(settings.redis_prefix)
        images = ImageStore(open_storage(settings, WORKER_TIMEOUTS))
        reaper = Reaper(store, jobs, housekeeping, JobRecovery(store, jobs))
        ownership = Ownership.of(store, settings.redis_prefix, images)
        retention = Retention(store, settings.redis_prefix, images, partial(claim_storage, ownership))
        clock = ClockGuard()

        def apply_retention() -> None:
            now = store.now()
            if (refusal := clock.refusal(now)) is not None:
                logger.warning(refusal)
                return
            # One storage needs only one housekeeper.
            if store.run(housekeeping.take_turn("clear-away", RETENTION_SECONDS * 0.9)):
                retention.apply(retention_rules(settings), now, seconds=RETENTION_SECONDS / 2)

        self._rounds: list[tuple[str, float, Callable[[], object]]] = [
            ("leases", REAP_SECONDS, reaper.reap),
            ("retention", RETENTION_SECONDS, apply_retention),
        ]
        self._dispatcher = _create_dispatcher(settings, start_tracing)
        self._alive_file = settings.alive_file
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until `stop` is called."""
        for name, seconds, work in self._rounds:
            # On its own thread, so that a long round delays no other task.
            threading.Thread(target=self._repeat, args=(name, seconds, work), name=name, daemon=True).start()
        self._dispatcher.start()
        logger.info("the housekeeper is ready.")
        self._touch_until_stopped()
        self._dispatcher.stop()

    def stop(self) -> None:
        self._stopping.set()

    def _touch_until_stopped(self) -> None:
        """Touch the liveness file for `worker.alive`."""
        if self._alive_file is None:
            self._stopping.wait()
            return
        while True:
            # Whoever watches the file sees that it cannot be written; the work goes on.
            with suppress(OSError):
                self._alive_file.touch()
            if self._stopping.wait(TOUCH_SECONDS):
                break
        with suppress(OSError):
            self._alive_file.unlink()

    def _repeat(self, name: str, seconds: float, work: Callable[[], object]) -> None:
        while not self._stopping.wait(seconds):
            try:
                work()
            except (StoreUnavailable, StorageUnavailable, StorageFull) as error:
                logger.warning("%s: %s The next round tries again", name, error.detail)
            except Exception:
                # Whatever goes wrong once, the next round has to come.
                logger.exception("a round of %s failed", name)


def _create_dispatcher(settings: HousekeeperSettings, start_tracing: StartTracing) -> WebhookDispatcher:
    store = Store(connect(settings.redis_url))
    images = ImageStore(open_storage(settings, WEBHOOK_TIMEOUTS))
    return WebhookDispatcher(
        store,
        connect(settings.redis_url),
        Webhooks(settings.redis_prefix),
        create_webhook_sender(settings, images, JobLinks(settings, store)),
        RetryPolicy(),
        settings.webhook_concurrency,
        start_tracing,
    )


def create_webhook_sender(settings: HousekeeperSettings, images: ImageStore, links: JobLinks) -> WebhookSender:
    return WebhookSender(
        client=OutboundClient(settings.webhook_allow, proxy=settings.parsed_egress_proxy),
        signer=WebhookSigner(parse_signing_keys(settings.webhook_secret) if settings.webhook_secret else ()),
        images=images,
        links=links.of,
        inline_max_bytes=settings.webhook_inline_max_bytes,
        user_agent=f"imagegen/{version('imagegen')}",
        now=_now,
        operator_headers=_operator_headers(settings),
    )


def claim_storage(ownership: Ownership) -> bool:
    """Whether images may be deleted."""
    if (refusal := ownership.claim()) is not None:
        logger.warning(refusal)
    return refusal is None


def _operator_headers(settings: HousekeeperSettings) -> Sequence[ReceiverHeader]:
    if settings.webhook_header is None:
        return ()
    headers = parse_receiver_headers(settings.webhook_header.get_secret_value(), settings.webhook_allow)
    for origin in {header.entry.origin for header in headers} & {*settings.webhook_allow}:
        logger.warning(
            "SD_WEBHOOK_ALLOW names %s without a path: SD_WEBHOOK_HEADER goes to %s%s there and nowhere else, because "
            "callers choose the path; name those it is for, such as %s/webhook/images",
            origin, origin, WAIT_NODE_PATH, origin,
        )  # fmt: skip
    return headers


def retention_rules(settings: Settings) -> RetentionRules:
    return RetentionRules(
        keep_jobs_for=_days(settings.job_retention_days),
        keep_images_for=_days(settings.output_retention_days),
        max_bytes=settings.output_max_bytes or None,
    )


def _days(days: int) -> timedelta | None:
    """None keeps files forever."""
    return timedelta(days=min(days, MAX_DAYS)) if days else None


def _now() -> datetime:
    return datetime.now(UTC)
