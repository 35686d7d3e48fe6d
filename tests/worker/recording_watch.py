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
    providers: tuple[ProviderTask, ...] = ()
    remembered: list[tuple[ProviderTask, ...]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)

    def remember(self, providers: tuple[ProviderTask, ...]) -> None:
        self.providers = providers
        self.remembered.append(providers)

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def retire(self, reason: str) -> None:
        self.retired.append(reason)
