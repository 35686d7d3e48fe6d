"""The housekeeper's process entry: `python -m worker.housekeeper.main`."""

import os
import signal
import sys
from functools import partial

from shared.errors import ConfigurationError
from shared.observability import logs, tracing
from shared.redis.store import require_redis
from shared.settings.housekeeper import HousekeeperSettings
from shared.settings.loading import load
from worker.housekeeper.app import Housekeeper


def create_housekeeper() -> Housekeeper:
    """Exits with one sentence if the settings are wrong."""
    try:
        settings = load(HousekeeperSettings)
        logs.configure_logging(settings.log_format)
        require_redis(settings.redis_url)
        settings.require_alive_file()
    except ConfigurationError as error:
        sys.exit(error.detail)
    return Housekeeper(settings, partial(tracing.start_tracing, "imagegen-housekeeper", os.environ))


def main() -> None:
    housekeeper = create_housekeeper()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: housekeeper.stop())
    housekeeper.run()


if __name__ == "__main__":
    main()
