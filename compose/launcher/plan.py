"""What `imagegen up` runs: decided by the launcher, which reads the settings, and carried out by the supervisor."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from shared.observability.logs import LogFormat


@dataclass(frozen=True)
class Service:
    name: str
    command: tuple[str, ...]
    ready: str
    """Text in the line of output that says it is ready."""
    env: Mapping[str, str] = field(default_factory=dict)
    shown: str = ""
    """Only lines that match this pattern are worth showing."""
    grace_seconds: float = 10.0
    """How long it may take to stop when asked."""
    stops_last: bool = False
    """Whether the others need it until they have stopped."""


@dataclass(frozen=True)
class Wave:
    """Services that start side by side, once those of the wave before are ready."""

    services: tuple[Service, ...]
    announcement: str = ""
    """Shown when all of them are ready."""


@dataclass(frozen=True)
class Plan:
    waves: tuple[Wave, ...]
    data_dir: str
    socket_dir: str
    """Removed in the end."""
    embedded_redis_url: str
    """Told to commands that work on its records; empty where the server is somebody else's."""
    log_format: "LogFormat"

    warnings: tuple[str, ...] = ()

    @property
    def services(self) -> tuple[Service, ...]:
        return tuple(service for wave in self.waves for service in wave.services)

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Self:
        raw: dict[str, Any] = json.loads(text)
        waves = [
            (tuple(Service(**service) for service in wave["services"]), wave["announcement"]) for wave in raw["waves"]
        ]
        return cls(**{**raw, "waves": tuple(Wave(services, announcement) for services, announcement in waves)})
