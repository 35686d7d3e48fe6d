"""The worker's process entry: `celery -A worker.main worker`. The only worker module that reads the environment."""

import os
import sys
from functools import partial

from shared import logs, tracing
from shared.errors import ConfigurationError
from shared.schemas import Backend
from shared.settings import SUPERVISED, WorkerSettings, load, unknown
from shared.store import require_redis
from worker.app import create_worker

#: How long idle OpenMP threads wait by spinning. Where others want the same cores, every parallel region of a step
#: then waits for a spinning thread; with too little of it, threads fall asleep between two regions. Measured on two
#: cores with the starter model: alone 0.46 s as it comes, 0.51 s with 1000, 0.43 s with 3000, 0.42 s with 30000, which
#: also takes a twentieth from four pictures at once; beside two busy programs 2.6 s (on another machine 30 s), 1.4, 2.1
#: and 1.0 s; but beside another engine 2.4 s with 3000, 6 s with 10000 and more with 30000.
SPINS_ALONE, SPINS_BESIDE_ANOTHER_ENGINE = 30_000, 3_000
ENGINES = frozenset({Backend.SD, Backend.FLUX_LOCAL})


def _settings() -> WorkerSettings:
    try:
        settings = load(WorkerSettings)
        logs.configure(settings.log_format)
        if SUPERVISED not in os.environ:
            logs.warn(unknown())
        require_redis(settings.redis_url)
    except ConfigurationError as error:
        sys.exit(error.detail)
    spins = SPINS_BESIDE_ANOTHER_ENGINE if ENGINES.issubset(settings.backends) else SPINS_ALONE
    # Before torch is loaded, in the child.
    os.environ.setdefault("GOMP_SPINCOUNT", str(spins))
    return settings


app = create_worker(_settings(), partial(tracing.start, "imagegen-worker", os.environ))
