"""The housekeeper's process entry: `celery -A worker.housekeeper.main worker --beat`."""

import os
import sys
from functools import partial

from shared import logs, tracing
from shared.errors import ConfigurationError
from shared.settings import HousekeeperSettings, load
from shared.store import require_redis
from worker.housekeeper.app import create_housekeeper


def _settings() -> HousekeeperSettings:
    try:
        settings = load(HousekeeperSettings)
        logs.configure(settings.log_format)
        require_redis(settings.redis_url)
    except ConfigurationError as error:
        sys.exit(error.detail)
    return settings


app = create_housekeeper(_settings(), partial(tracing.start, "imagegen-housekeeper", os.environ))
