"""An installation that is mended after each fault, and remembers what it has promised."""

import sys
from pathlib import Path
from typing import Any

import redis

from shared.jobs.job import Job
from shared.jobs.states import State
from tests.faults.invariant import Invariant
from tests.faults.processes import is_alive
from tests.stack import Api, Event, Process, Stack, free_port

#: A housekeeper that looks for lost workers and wake-ups each second, and not every 4 s.
QUICK_HOUSEKEEPER = "from worker.housekeeper import app, main; app.REAP_SECONDS = 1.0; main.main()"


class Service(Stack):
    """Processes have names that outlive them: `null-0`, `null-1`, `housekeeper`, `api-0`."""

    def __init__(
        self, redis_url: str, folder: Path, names: tuple[str, ...], *, quick: bool = True, **settings: str
    ) -> None:
        super().__init__(redis_url, folder, **{"SD_BACKENDS": "null", **settings})
        self.accepted: set[str] = set()
        self.processes: dict[str, Process] = {}
        self._names = names
        self._quick = quick
        self._ports = {name: free_port() for name in names if name.startswith("api")}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    @property
    def renderers(self) -> list[str]:
        return [name for name in self._names if name.startswith("null")]

    def mend(self) -> None:
        """Start what is missing, and wait until it is ready."""
        for name in self.restart_what_ended():
            self.await_ready(name)

    def restart_what_ended(self) -> list[str]:
        ended = [name for name in self._names if not self.has(name)]
        for name in ended:
            self.start(name)
        return ended

    def has(self, name: str) -> bool:
        return name in self.processes and is_alive(self.processes[name].pid)

    def start(self, name: str, **settings: str) -> Process:
        if name in self.processes:
            self.processes[name].wait(0.1)
        node = ["-n", f"{name}@{self.prefix.rstrip(':')}", "--without-gossip", "--without-mingle"]
        match name.rstrip("-0123456789"):
            case "api":
                command = [sys.executable, "-m", "api.main"]
                settings["SD_PORT"] = str(self._ports[name])
            case "housekeeper":
                program = ["-c", QUICK_HOUSEKEEPER] if self._quick else ["-m", "worker.housekeeper.main"]
                command = [sys.executable, *program]
            case backend:
                command = [sys.executable, "-m", "celery", "-A", "worker.main", "worker", *node]
                settings["SD_BACKEND"] = backend
        self.processes[name] = self.run(command, **settings)
        self.apis = [Api(self.processes[name], self.url(name)) for name in self._ports if name in self.processes]
        return self.processes[name]

    def await_ready(self, name: str) -> None:
        self.processes[name].wait_for("Uvicorn running on" if name.startswith("api") else "ready.")

    def submit(self, seconds: float = 0, *, steps: int = 100, **request: Any) -> str:
        """Id of an accepted job that takes so long."""
        simulation = request.pop("simulate", {"seconds": seconds})
        body = {"prompt": "x", "num_inference_steps": steps, "metadata": {"simulate": simulation}, **request}
        answer = self.api.post("/api/jobs", body)
        assert answer.status_code == 202, answer.text
        self.accepted.add(answer.json()["id"])
        return str(answer.json()["id"])

    def begin(self, seconds: float, **request: Any) -> str:
        """Id of a job that has made its first step."""
        job_id = self.submit(seconds, **request)
        with self.api.events(job_id) as events:
            next(event for event in events if event.type == "progress")
        return job_id

    def runs_again(self, job_id: str) -> Event:
        """Once it was put back in line and started anew."""
        with self.api.events(job_id) as events:
            states = (event for event in events if event.type == "state" and event.data["state"] == State.RUNNING)
            next(states)
            return next(states)

    def job(self, job_id: str) -> Job:
        return Invariant(self).jobs()[job_id]

    def wait_until_done(self, job_id: str) -> Job:
        """The job on record once it has ended."""
        self.api.wait_until_done(job_id)
        return self.job(job_id)

    def renderer_of(self, job_id: str) -> str:
        """Name of the worker that runs it."""
        return str(self.job(job_id).worker).partition("@")[0]

    @property
    def store(self) -> "redis.Redis":
        return redis.Redis.from_url(self.settings["SD_REDIS_URL"], decode_responses=True)
