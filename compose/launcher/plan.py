"""The processes that `imagegen up` runs: planned from the settings, handed to the supervisor as JSON."""

import json
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from shared.observability.logs import LogFormat


#: Stop the service. They are blocked while the supervisor takes the place of the command, which would lose them.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Service:
    name: str
    command: tuple[str, ...]
    ready: str
    """Text in the line of output that says it is ready."""
    env: Mapping[str, str] = field(default_factory=dict)
    shown: str = ""
    """Pattern of the lines that are printed; the others are only logged."""
    grace_seconds: float = 10.0
    """How long it may take to stop."""
    stops_last: bool = False
    """Whether the others need it until they have stopped."""


@dataclass(frozen=True)
class Stage:
    """Services that start at the same time, once those of the stage before are ready."""

    services: tuple[Service, ...]
    announcement: str = ""
    """Printed when all of them are ready."""


@dataclass(frozen=True)
class Plan:
    stages: tuple[Stage, ...]
    data_dir: str
    socket_dir: str
    """Removed at the end."""
    embedded_redis_url: str
    """Published for other commands; empty where SD_REDIS_URL names a server."""
    log_format: "LogFormat"
    warnings: tuple[str, ...] = ()

    @property
    def services(self) -> tuple[Service, ...]:
        return tuple(service for stage in self.stages for service in stage.services)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        raw: dict[str, Any] = json.loads(text)
        stages = tuple(
            Stage(tuple(Service(**service) for service in stage["services"]), stage["announcement"])
            for stage in raw["stages"]
        )
        return cls(**{**raw, "stages": stages})
