"""The worker's process entry: `python -m worker.main sd`, with the name of its Celery node, or what precedes its `@`.

Celery's own command line, `celery -A worker.main worker`, does the same, and imports every other command of Celery and
Flower for it: 12 MB. The only worker module that reads the environment.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from uuid import uuid4

import shared.redis.celery_formats  # noqa: F401 - before Celery
from shared.errors import ConfigurationError
from shared.observability import logs, tracing
from shared.redis.store import require_redis
from shared.settings.loading import SUPERVISED_VARIABLE, load, setting_warnings
from shared.settings.worker import WorkerSettings
from worker.app import create_worker
from worker.process.cpus import set_threads


def _settings() -> WorkerSettings:
    try:
        settings = load(WorkerSettings)
        logs.configure_logging(settings.log_format)
        if SUPERVISED_VARIABLE not in os.environ:
            logs.log_warnings(setting_warnings(settings))
        require_redis(settings.redis_url)
        settings.require_alive_file()
        if not settings.output_url:
            settings.require_output_dir()
    except ConfigurationError as error:
        sys.exit(error.detail)
    # The child's torch reads them when it is imported.
    set_threads(os.environ, settings.cpu_threads, settings.host_workers)
    return settings


def main(arguments: Sequence[str]) -> int:
    from celery.exceptions import SecurityWarning
    from celery.utils.nodenames import default_nodename, host_format

    # Celery warns root of messages that contain code; these workers accept JSON only.
    warnings.simplefilter("ignore", SecurityWarning)
    # Under the name by which Celery's children find it too.
    app = import_module("worker.main").app
    name = next(iter(arguments), "")
    node = host_format(default_nodename(name if "@" in name or not name else f"{name}@%h"))
    worker = app.Worker(hostname=node, quiet=True, loglevel="WARNING", without_gossip=True, without_mingle=True)
    worker.start()
    return worker.exitcode or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#: New at each start. A spawned child is a new interpreter and reads it from the environment.
start_id = os.environ.setdefault("IMAGEGEN_START_ID", uuid4().hex[:8])
app = create_worker(_settings(), start_id, partial(tracing.start_tracing, "imagegen-worker", os.environ))
