"""An installation whose processes restart after faults, and that remembers the jobs it has accepted."""

import sys
from pathlib import Path
from typing import Any

import redis

from shared.jobs.job import Job
from shared.jobs.states import State
from tests.faults.invariant import Invariant
from tests.stack import Api, Event, Stack, free_port
from tests.support.process import Process


class Service(Stack):
    """A process keeps its name across restarts: `null-0`, `null-1`, `housekeeper`, `api-0`."""

    #: Module of the housekeeper.
    housekeeper = "tests.faults.quick_housekeeper"

    def __init__(self, redis_url: str, folder: Path, names: tuple[str, ...], **settings: str) -> None:
        super().__init__(redis_url, folder, **{"SD_BACKENDS": "null", **settings})
        self.accepted: set[str] = set()
        self.processes: dict[str, Process] = {}
        self._names = names
        self._ports = {name: free_port() for name in names if name.startswith("api")}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    @property
    def null_workers(self) -> list[str]:
        return [name for name in self._names if name.startswith("null")]

    def start_missing(self) -> None:
        """Start the processes that have ended and wait until they are ready."""
        for name in self.restart_ended():
            self.wait_until_ready(name)

    def restart_ended(self) -> list[str]:
        ended = [name for name in self._names if not self.is_running(name)]
        for name in ended:
            self.start(name)
        return ended

    def is_running(self, name: str) -> bool:
        return name in self.processes and self.processes[name].is_running

    def start(self, name: str, **settings: str) -> Process:
        if name in self.processes:
            self.processes[name].wait(0.1)
        match name.rstrip("-0123456789"):
            case "api":
                command = [sys.executable, "-m", "api.main"]
                settings["SD_PORT"] = str(self._ports[name])
            case "housekeeper":
                command = [sys.executable, "-m", self.housekeeper]
            case backend:
                command = [sys.executable, "-m", "worker.main", f"{name}@{self.prefix.rstrip(':')}"]
                settings["SD_BACKEND"] = backend
        self.processes[name] = self.run(command, **settings)
        self.apis = [Api(self.processes[name], self.url(name)) for name in self._ports if name in self.processes]
        return self.processes[name]

    def wait_until_ready(self, name: str) -> None:
        self.processes[name].wait_for("Uvicorn running on" if name.startswith("api") else "ready.")

    def submit(self, seconds: float = 0, *, steps: int = 100, **request: Any) -> str:
        """Submit a job that takes this long. Returns its id."""
        simulation = request.pop("simulate", {"seconds": seconds})
        body = {"prompt": "x", "num_inference_steps": steps, "metadata": {"simulate": simulation}, **request}
        answer = self.api.post("/api/jobs", body)
        assert answer.status_code == 202, answer.text
        self.accepted.add(answer.json()["id"])
        return str(answer.json()["id"])

    def start_job(self, seconds: float, **request: Any) -> str:
        """Submit a job and wait for its first step. Returns its id."""
        job_id = self.submit(seconds, **request)
        with self.api.events(job_id) as events:
            next(event for event in events if event.type == "progress")
        return job_id

    def wait_for_retry(self, job_id: str) -> Event:
        """The event of the second start of a job."""
        with self.api.events(job_id) as events:
            states = (event for event in events if event.type == "state" and event.data["state"] == State.RUNNING)
            next(states)
            return next(states)

    def job(self, job_id: str) -> Job:
        return Invariant(self).jobs()[job_id]

    def wait_until_done(self, job_id: str) -> Job:
        """The recorded job once it has ended."""
        self.api.wait_until_done(job_id)
        return self.job(job_id)

    def worker_of(self, job_id: str) -> str:
        """Name of the worker that runs the job."""
        return str(self.job(job_id).worker).partition("@")[0]

    @property
    def store(self) -> "redis.Redis":
        return redis.Redis.from_url(self.settings["SD_REDIS_URL"], decode_responses=True)
