"""The worker's process entry: `celery -A worker.main worker`. The only worker module that reads the environment."""

import os
import sys
from functools import partial

from shared import logs, tracing
from shared.errors import ConfigurationError
from shared.settings import WorkerSettings, load
from shared.store import require_redis
from worker.app import create_worker

# Before torch is loaded: idle OpenMP threads wait by spinning, and where another program wants the same cores, every
# parallel region of a step then waits for a spinning thread. Too little of it, and the threads fall asleep between two
# regions. Measured on two cores with the starter model, picture alone / beside two busy programs: 0.50 s / 30 s as it
# comes, 0.63 s / 1.6 s with a count of 1000, 0.51 s / 2.0 s with 3000, 0.48 s / 5.3 s with 20000.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _settings() -> WorkerSettings:
    try:
        settings = load(WorkerSettings)
        logs.configure(settings.log_format)
        require_redis(settings.redis_url)
    except ConfigurationError as error:
        sys.exit(error.detail)
    return settings


app = create_worker(_settings(), partial(tracing.start, "imagegen-worker", os.environ))
