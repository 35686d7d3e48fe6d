"""Whether the engines that are configured are served."""

from collections.abc import Iterator
from datetime import UTC, datetime

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import Surroundings
from shared.errors import StoreUnavailable
from shared.jobs.types import Backend
from shared.redis.store import Store, connect
from shared.workers.records import Fleet, WorkerRecord, Workers, WorkerState
from worker.models.download_plans import format_bytes

#: The largest models load within a minute or two from a local disk.
LONG_SECONDS = 300.0


def look(here: Surroundings) -> Iterator[Finding]:
    if here.redis_url is None:
        yield ok("The service is not running; `imagegen up` starts it.")
        return
    client = connect(here.redis_url)
    try:
        fleet = Store(client).run(Workers(here.settings.redis_prefix).read_fleet())
    except StoreUnavailable:
        yield ok("Redis does not answer; nothing is known of workers.")
    else:
        for backend in here.settings.backends:
            yield judged(backend, fleet)
    finally:
        client.close()


def judged(backend: Backend, fleet: Fleet) -> Finding:
    workers = fleet.workers_of(backend)
    if not workers:
        reason = f" The last one ended: {fleet.start_failures[backend]}" if backend in fleet.start_failures else ""
        return problem(
            f"No worker serves {backend}; {fleet.queued[backend]} jobs wait for one.{reason}",
            f"Start one; `imagegen logs worker-{backend}` says why it ended.",
        )
    loading = [worker for worker in workers if worker.state is WorkerState.LOADING]
    if len(loading) < len(workers):
        count = f"{len(workers)} worker{'' if len(workers) == 1 else 's'}"
        return ok(f"{backend} is served by {count}; {fleet.queued[backend]} jobs wait.")
    return _loading(backend, loading[0])


def _loading(backend: Backend, worker: WorkerRecord) -> Finding:
    if (download := worker.download) is not None:
        there = f"{format_bytes(download.bytes_done)} of {format_bytes(download.bytes_total)}"
        return warning(
            f"{backend} is still loading: {there} of {download.model} are there.",
            "Wait; jobs are taken and wait, too. `imagegen status` shows how far it is.",
        )
    spent = (datetime.now(UTC) - worker.started_at).total_seconds()
    patience = "Wait; jobs are taken and wait, too."
    slow = f"Look at `imagegen logs worker-{backend}`, and at what `disk` and `memory` say: it should be done by now."
    return warning(f"{backend} has been loading for {spent:.0f} s.", slow if spent > LONG_SECONDS else patience)
