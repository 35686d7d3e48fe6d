"""`imagegen status`: shows backends, workers and running jobs."""

import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from compose.cli.client import ApiClient
from compose.cli.client_error import ClientError
from compose.cli.terminal import create_table
from worker.models.download_plans import format_bytes

#: How often the live table refreshes. The API reads Redis at most twice a second for all clients.
REFRESH_SECONDS = 1.0
MAX_JOBS = 10
MAX_MODELS = 4
_COLOURS = {"ok": "green", "ready": "green", "busy": "green", "loading": "yellow", "degraded": "yellow"}


@dataclass(frozen=True)
class StatusReport:
    """The service as the API sees it; without backends and jobs while Redis is unreachable."""

    health: dict[str, Any]
    backends: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    """The running jobs that the API key may see."""

    @classmethod
    def read(cls, client: ApiClient) -> Self:
        """Raises ClientError."""
        health = client.read("/health", "status", "version", "redis", "outputs", "default_backend")
        if not health["redis"]:
            return cls(health, [], [])
        backends = client.read("/api/backends", "backends")["backends"]
        return cls(health, backends, client.read(f"/api/jobs?state=running&limit={MAX_JOBS}", "jobs")["jobs"])

    @property
    def is_ok(self) -> bool:
        return bool(self.health["status"] == "ok")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> RenderableType:
        parts = [_headline(self.health)]
        default = self.health["default_backend"]
        configured = [
            backend for backend in self.backends if backend["status"] != "unconfigured" or backend["name"] == default
        ]
        workers = [worker for backend in configured for worker in backend["workers"]]
        parts += ["", _backends(configured)] if configured else []
        parts += [f"{backend['name']}: {reason}" for backend in configured if (reason := _reason(backend))]
        parts += ["", _workers(workers)] if workers else []
        parts += ["", _jobs(self.jobs)] if self.jobs else []
        return Group(*parts)


def watch(client: ApiClient, console: Console) -> None:
    """Runs until interrupted, also while the service is unreachable."""
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            try:
                content = StatusReport.read(client).render()
            except ClientError as error:
                content = f"[bold red]{escape(str(error))}[/]"
            live.update(content, refresh=True)
            time.sleep(REFRESH_SECONDS)


def _headline(health: dict[str, Any]) -> RenderableType:
    outputs = health["outputs"]
    disk = "images are writable" if outputs["writable"] else "[red]images are not writable[/]"
    if outputs["free_bytes"] is not None:
        disk += f" ({format_bytes(outputs['free_bytes'])} free)"
    redis = "Redis responds" if health["redis"] else "[red]Redis is unreachable[/]"
    return f"imagegen {_plain(health['version'])}  {_state(health['status'])}  {redis}, {disk}"


def _backends(backends: list[dict[str, Any]]) -> Table:
    table = create_table("backend", "status", "model", "device", "queued", "wait")
    for backend in backends:
        device = " ".join(filter(None, (backend["device"], backend["dtype"])))
        wait = f"{backend['estimated_wait_seconds']:.0f} s"
        row = (_plain(backend["model"]), _plain(device), str(backend["queued"]), wait)
        table.add_row(backend["name"], _state(backend["status"]), *row)
    return table


def _reason(backend: dict[str, Any]) -> str:
    """Why the backend does not serve; '' if it does, or if nobody knows."""
    if backend["status"] == "unconfigured" and not backend["reason"]:
        return "requests without a backend are refused, because SD_DEFAULT_BACKEND is not in SD_BACKENDS"
    return _plain(backend["reason"])


def _workers(workers: list[dict[str, Any]]) -> Table:
    table = create_table("worker", "status", "models in memory", "activity")
    for worker in workers:
        table.add_row(_plain(worker["name"]), _state(worker["state"]), _models(worker), _activity(worker))
    return table


def _activity(worker: dict[str, Any]) -> str:
    if download := worker["download"]:
        progress = f"{format_bytes(download['bytes_done'])} of {format_bytes(download['bytes_total'])}"
        return f"downloads {_plain(download['model'])}: {progress}"
    if load := worker["loading"]:
        progress = f"{format_bytes(load['bytes_done'])} of {format_bytes(load['bytes_total'])}"
        return f"loads {_plain(load['model'])}: {progress}"
    return f"job {_plain(worker['current_job'])}" if worker["current_job"] else ""


def _models(worker: dict[str, Any]) -> str:
    """Those in memory, the most recently used first."""
    names = [_plain(model["name"]) for model in worker["models"]]
    more = f" and {len(names) - MAX_MODELS} more" if len(names) > MAX_MODELS else ""
    return ", ".join(names[:MAX_MODELS]) + more


def _jobs(jobs: list[dict[str, Any]]) -> Table:
    table = create_table("job", "backend", "", "step", "label")
    for job in jobs:
        progress = job["progress"] or {"fraction": 0.0, "step": 0, "steps": "?"}
        bar = ProgressBar(total=1.0, completed=progress["fraction"], width=20)
        step = f"{progress['step']}/{progress['steps']}"
        table.add_row(job["id"], job["backend"], bar, step, _plain(job["label"]))
    return table


def _state(state: str) -> str:
    return f"[{_COLOURS.get(state, 'red')}]{_plain(state)}[/]"


def _plain(value: object) -> str:
    """Text that others chose, without control characters and markup."""
    return escape("".join(filter(str.isprintable, str(value or ""))))
