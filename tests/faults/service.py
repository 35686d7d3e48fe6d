"""An installation that is mended after each fault, and remembers what it has promised."""

from typing import Any

from shared.schemas import Job
from tests.faults.invariant import Invariant
from tests.faults.processes import kill_whole
from tests.stack import Api, Process, Stack


class Service(Stack):
    def __init__(self, redis_url: str, folder: Any, **settings: str) -> None:
        super().__init__(redis_url, folder, **settings)
        self.accepted: set[str] = set()
        self.housekeeper: Process | None = None
        self._named: dict[str, Process] = {}

    def mend(self, workers: int = 2) -> None:
        """Start what is missing."""
        self.apis = [api for api in self.apis if api.process.lives]
        self.workers = [worker for worker in self.workers if worker.lives]
