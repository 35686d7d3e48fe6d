"""Checks that a worker serves each configured backend."""

from collections.abc import Iterator
from datetime import UTC, datetime

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.installation import Installation
from shared.errors import StoreUnavailable
from shared.jobs.types import Backend
from shared.redis.store import Store, connect
from shared.workers.records import Fleet, WorkerRecord, Workers, WorkerState
from worker.models.download_plans import format_bytes

#: The largest models load within two minutes from a local disk.
SLOW_LOAD_SECONDS = 300.0


def check(installation: Installation) -> Iterator[Finding]:
    if installation.redis_url is None:
        yield ok("The service is not running; `imagegen up` starts it.")
        return
    client = connect(installation.redis_url)
    try:
        fleet = Store(client).run(Workers(installation.settings.redis_prefix).read_fleet())
    except StoreUnavailable:
        yield ok("Redis does not respond; the workers are unknown.")
    else:
        for backend in installation.settings.backends:
            yield _check_backend(backend, fleet)
    finally:
        client.close()


def _check_backend(backend: Backend, fleet: Fleet) -> Finding:
    workers = fleet.workers_of(backend)
    if not workers:
        reason = f" The last one ended: {fleet.start_failures[backend]}" if backend in fleet.start_failures else ""
        return problem(
            f"No worker serves {backend}; jobs queued: {fleet.queued[backend]}.{reason}",
            f"Start one; `imagegen logs worker-{backend}` shows why the last one ended.",
        )
    loading = [worker for worker in workers if worker.state is WorkerState.LOADING]
    if len(loading) < len(workers):
        held = {model.name for worker in workers for model in worker.models}
        models = f"; models in memory: {len(held)}" if len(held) > 1 else ""
        return ok(f"Workers of {backend}: {len(workers)}; jobs queued: {fleet.queued[backend]}{models}.")
    return _loading(backend, loading[0])


def _loading(backend: Backend, worker: WorkerRecord) -> Finding:
    if (download := worker.download) is not None:
        progress = f"{format_bytes(download.bytes_done)} of {format_bytes(download.bytes_total)}"
        return warning(
            f"{backend} is downloading {download.model}: {progress}.",
            "Wait; jobs are accepted and queued. `imagegen status` shows the progress.",
        )
    seconds = (datetime.now(UTC) - worker.started_at).total_seconds()
    slow = f"Loading should be done by now: see `imagegen logs worker-{backend}`, and the checks `disk` and `memory`."
    remedy = slow if seconds > SLOW_LOAD_SECONDS else "Wait; jobs are accepted and queued."
    return warning(f"{backend} has been loading for {seconds:.0f} s.", remedy)
