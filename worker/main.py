"""The worker's process entry: `celery -A worker.main worker`. The only worker module that reads the environment."""

import os
import sys
from functools import partial
from uuid import uuid4

from shared.errors import ConfigurationError
from shared.observability import logs, tracing
from shared.redis.store import require_redis
from shared.settings.loading import SUPERVISED_VARIABLE, load, unknown_setting_warnings
from shared.settings.worker import WorkerSettings
from worker.app import create_worker
from worker.process.cpus import set_threads


def _settings() -> WorkerSettings:
    try:
        settings = load(WorkerSettings)
        logs.configure_logging(settings.log_format)
        if SUPERVISED_VARIABLE not in os.environ:
            logs.log_warnings(unknown_setting_warnings())
        require_redis(settings.redis_url)
    except ConfigurationError as error:
        sys.exit(error.detail)
    # The child's torch reads them when it is imported.
    set_threads(os.environ, settings.cpu_threads, settings.host_workers)
    return settings


#: New at each start. A spawned child is a new interpreter and reads it from the environment.
start_id = os.environ.setdefault("IMAGEGEN_START_ID", uuid4().hex[:8])
app = create_worker(_settings(), start_id, partial(tracing.start_tracing, "imagegen-worker", os.environ))
