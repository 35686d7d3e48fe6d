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
# regions. Measured on two cores with the starter model, picture alone / beside two busy programs: 0.46 s / 2.6 s (on
# another machine 30 s) as it comes, 0.51 s / 1.4 s with a count of 1000, 0.43 s / 2.1 s with 3000, 0.42 s / 1.0 s with
# 10000; four pictures at once take a twentieth less with 10000 than with 3000.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")


def _settings() -> WorkerSettings:
    try:
        settings = load(WorkerSettings)
        logs.configure(settings.log_format)
        require_redis(settings.redis_url)
    except ConfigurationError as error:
        sys.exit(error.detail)
    return settings


app = create_worker(_settings(), partial(tracing.start, "imagegen-worker", os.environ))
