"""The housekeeper: a Celery worker that looks after jobs nobody else looks after, on a beat of its own."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version

from celery import Celery
from celery.platforms import set_pdeathsig  # type: ignore[attr-defined]
from celery.signals import beat_embedded_init, setup_logging, worker_ready, worker_shutdown
from kombu import Exchange, Queue

from shared.errors import StorageFull, StorageUnavailable, StoreUnavailable
from shared.images import ImageStore
from shared.jobs import Jobs
from shared.queues import JobQueue, create_celery
from shared.settings import HousekeeperSettings, Settings, signing_keys
from shared.storage import COURIER_PATIENCE, WORKER_PATIENCE, open_home
from shared.store import Store, connect
from shared.tracing import Start
from shared.upkeep import Upkeep
from shared.urls import Guard
from shared.webhooks import Webhooks
from worker.housekeeper.courier import Courier
from worker.housekeeper.leases import Reaper
from worker.housekeeper.links import JobLinks
from worker.housekeeper.ownership import Ownership
from worker.housekeeper.reconciler import Reconciler
from worker.housekeeper.retention import Retention, Rules
from worker.housekeeper.retries import Retries
from worker.housekeeper.signing import Signer
from worker.housekeeper.webhooks import Dispatcher
from worker.rescue import Rescue

logger = logging.getLogger(__name__)

QUEUE = "maintenance"
#: Seconds between two runs. With LEASE_MS, the first is how long a job of a dead worker waits.
EVERY = {"reap-leases": 4.0, "resend-messages": 15.0, "clear-away": 600.0}


def create_housekeeper(settings: HousekeeperSettings, traced: Start) -> Celery:
    """Any number may run: every task is a compare-and-set, and webhooks are taken under leases."""
    app = create_celery(settings)
    app.conf.update(
        task_queues=[Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE)],
        task_default_queue=QUEUE,
        # A round that was missed is made up for by the next one.
        task_acks_late=False,
        worker_pool="threads",
        worker_concurrency=2,
        worker_hijack_root_logger=False,
        # In memory: the schedule is the same at each start, and needs no file.
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule={
            name: {"task": name, "schedule": seconds, "options": {"expires": seconds}}
            for name, seconds in EVERY.items()
        },
    )
    _keep_house(app, settings, ImageStore(open_home(settings, WORKER_PATIENCE)))
    _send_webhooks(settings, ImageStore(open_home(settings, COURIER_PATIENCE)), traced)
    # Beat is a process beside this one; without it, it would go on for nobody.
    beat_embedded_init.connect(lambda **_: set_pdeathsig("SIGKILL"), weak=False)
    # Celery would do it in its own way otherwise.
    setup_logging.connect(lambda **_: None, weak=False)
    return app


def _keep_house(app: Celery, settings: Settings, images: ImageStore) -> None:
    store, jobs, upkeep = Store(connect(settings.redis_url)), Jobs(settings.redis_prefix), Upkeep(settings.redis_prefix)
    queue = JobQueue(app)
    reaper = Reaper(store, upkeep, Rescue(store, jobs, queue), _now)
    reconciler = Reconciler(store, jobs, upkeep, queue)
    ownership = Ownership.of(store, settings.redis_prefix, images)
    retention = Retention(store, settings.redis_prefix, images, partial(_is_ours, ownership), _now)

    @app.task(name="reap-leases")
    def reap_leases() -> None:
        _round("reap-leases", reaper.reap)

    @app.task(name="resend-messages")
    def resend_messages() -> None:
        _round("resend-messages", reconciler.reconcile)

    def clear_in_turn() -> None:
        # What lies in one place needs one housekeeper.
        every = EVERY["clear-away"]
        if store.run(upkeep.turn("clear-away", every * 0.9)):
            retention.apply(rules_of(settings), seconds=every / 2)

    @app.task(name="clear-away")
    def clear_away() -> None:
        _round("clear-away", clear_in_turn)


def _send_webhooks(settings: HousekeeperSettings, images: ImageStore, traced: Start) -> None:
    store = Store(connect(settings.redis_url))
    dispatcher = Dispatcher(
        store,
        connect(settings.redis_url),
        Webhooks(settings.redis_prefix),
        create_courier(settings, images, JobLinks(settings, store)),
        Retries(),
        settings.webhook_concurrency,
        traced,
    )

    # Once Celery has begun: beat is a fork of this process, and must not inherit threads half-way.
    worker_ready.connect(lambda **_: dispatcher.start(), weak=False)
    worker_shutdown.connect(lambda **_: dispatcher.stop(), weak=False)


def create_courier(settings: HousekeeperSettings, images: ImageStore, links: JobLinks) -> Courier:
    name, _, content = (
        settings.webhook_header.get_secret_value().partition(":") if settings.webhook_header else ("",) * 3
    )
    return Courier(
        guard=Guard(settings.webhook_allow),
        signer=Signer(signing_keys(settings.webhook_secret) if settings.webhook_secret else ()),
        images=images,
        links=links.of,
        inline_max_bytes=settings.webhook_inline_max_bytes,
        user_agent=f"imagegen/{version('imagegen')}",
        now=_now,
        own_headers={name: content.strip()} if name else {},
        own_receivers=frozenset(settings.webhook_allow),
    )


def _is_ours(ownership: Ownership) -> bool:
    if (refusal := ownership.claim()) is not None:
        logger.warning(refusal)
    return refusal is None


def _round(name: str, work: Callable[[], object]) -> None:
    try:
        work()
    except StoreUnavailable:
        logger.warning("Redis does not answer; %s comes round again", name)
    except StorageUnavailable:
        logger.warning("the storage of pictures does not answer; %s comes round again", name)
    except StorageFull as error:
        logger.warning("%s %s comes round again", error.detail, name)


def rules_of(settings: Settings) -> Rules:
    return Rules(
        jobs_for=_days(settings.job_retention_days),
        pictures_for=_days(settings.output_retention_days),
        most_bytes=settings.output_max_bytes or None,
    )


def _days(days: int) -> timedelta | None:
    return timedelta(days=days) if days else None


def _now() -> datetime:
    return datetime.now(UTC)
