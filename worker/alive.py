"""A container's health check: `python -m worker.alive`, or `python -m worker.alive housekeeper`."""

import sys
from socket import gethostname

from kombu.exceptions import OperationalError

from shared.errors import ConfigurationError
from shared.queues import create_celery
from shared.settings import WorkerSettings, load

ANSWER_SECONDS = 5.0


def answers(settings: WorkerSettings, name: str) -> bool:
    """Whether the Celery node of this host serves. One that still loads its model does not answer."""
    app = create_celery(settings)
    # Without a limit, it would wait out its time for more nodes of the same name.
    try:
        return bool(app.control.ping(destination=[f"{name}@{gethostname()}"], timeout=ANSWER_SECONDS, limit=1))
    except OperationalError:
        return False


def main() -> None:
    try:
        settings = load(WorkerSettings)
    except ConfigurationError as error:
        sys.exit(error.detail)
    name = sys.argv[1] if len(sys.argv) > 1 else settings.backend
    if not answers(settings, name):
        sys.exit(f"{name}@{gethostname()} does not answer")


if __name__ == "__main__":
    main()
