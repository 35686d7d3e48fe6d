"""Who follows a job in tests that have no runner."""

from collections.abc import Callable
from dataclasses import dataclass, field

from shared.jobs.job import ProviderTask
from worker.engines.base import Step


@dataclass
class RecordingWatch:
    """Remembers everything; `check` does as the test says."""

    on_step: Callable[[Step], None] = lambda _: None
    check: Callable[[], None] = lambda: None
    provider_tasks: tuple[ProviderTask, ...] = ()
    saved_provider_tasks: list[tuple[ProviderTask, ...]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    restart_reasons: list[str] = field(default_factory=list)

    def save_provider_tasks(self, tasks: tuple[ProviderTask, ...]) -> None:
        self.provider_tasks = tasks
        self.saved_provider_tasks.append(tasks)

    def add_warning(self, warning: str) -> None:
        self.warnings.append(warning)

    def request_restart(self, reason: str) -> None:
        self.restart_reasons.append(reason)
