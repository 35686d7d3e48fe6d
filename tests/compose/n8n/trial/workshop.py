"""An n8n and a service beside each other, and the workflows of compose/n8n as a user sets them up."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.compose.n8n.trial.editor import N8n, Result
from tests.compose.n8n.trial.installation import Installation, install_nodes
from tests.compose.n8n.trial.recorder import Recorder, recording
from tests.compose.n8n.workflows import FILES, FOLDER
from tests.shared.webhooks.receiver import SECRET
from tests.stack import Stack, free_port, valkey_server
from tests.support.process import Process

KEY = "the-key-of-n8n-0123456789"
TOKEN = "a long random text"
#: The longest wait of one call, so that a job of a few seconds outlasts it.
CALL_SECONDS = 4

Workflow = dict[str, Any]


class Service:
    """The API with two workers, at one address for its whole life."""

    def __init__(self, redis_url: str, folder: Path, n8n_urls: list[str]) -> None:
        allowed = [f"{url}/{path}" for url in n8n_urls for path in ("webhook-waiting", "webhook")]
        self._stack = Stack(
            redis_url,
            folder,
            SD_BACKENDS="null",
            SD_API_KEY=f"n8n:{KEY}",
            SD_PORT=str(free_port()),
            SD_WEBHOOK_ALLOW=",".join(allowed),
            SD_WEBHOOK_SECRET=SECRET,
            SD_WEBHOOK_HEADER=f"X-Webhook-Token: {TOKEN}",
            SD_SYNC_TIMEOUT_SECONDS=str(CALL_SECONDS),
        )
        self.url = f"http://localhost:{self._stack.settings['SD_PORT']}"
        self._api: Process | None = None

    def __enter__(self) -> "Service":
        self._stack.__enter__()
        for _ in range(2):
            self._stack.start_worker("null")
        self._stack.start_housekeeper()
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def start(self) -> None:
        self._api = self._stack.run([sys.executable, "-m", "api.main"])
        self._api.wait_for("Uvicorn running on")

    def stop(self) -> None:
        assert self._api is not None
        self._api.stop()

    def jobs(self) -> list[dict[str, Any]]:
        """The newest hundred."""
        return list(self._get("/api/jobs?limit=100")["jobs"])

    def job(self, job_id: str) -> dict[str, Any]:
        return self._get(f"/api/jobs/{job_id}")

    def _get(self, path: str) -> dict[str, Any]:
        response = requests.get(self.url + path, headers={"X-API-Key": KEY}, timeout=30)
        response.raise_for_status()
        return dict(response.json())


@dataclass
class Workshop:
    installation: Installation
    folder: Path
    n8n: N8n
    service: Service
    recorder: Recorder
    credentials: dict[str, dict[str, str]] = field(default_factory=dict)
    recordings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def sign_up(self, n8n: N8n) -> dict[str, dict[str, str]]:
        """The owner of a new n8n creates the credentials."""
        n8n.set_up()
        header = "httpHeaderAuth"
        return {
            "key": n8n.create_credential("imagegen", header, {"name": "X-API-Key", "value": KEY}),
            "wrong": n8n.create_credential("wrong key", header, {"name": "X-API-Key", "value": "wrong-key-0123456789"}),
            "token": n8n.create_credential("webhooks", header, {"name": "X-Webhook-Token", "value": TOKEN}),
        }

    def prepared(
        self, file: str, *, base_url: str = "", credential: str = "key", webhooks: str = "token", **settings: Any
    ) -> Workflow:
        """A workflow after a user has edited its node *Settings* and chosen credentials."""
        workflow: Workflow = json.loads((FOLDER / file).read_text())
        values = {"base_url": base_url or self.service.url, **settings}
        for node in workflow["nodes"]:
            kind, parameters = node["type"].rpartition(".")[2], node["parameters"]
            if kind == "httpRequest":
                node["credentials"] = {"httpHeaderAuth": self.credentials[credential]}
            elif kind == "wait" and parameters.get("resume") == "webhook":
                node["credentials"] = {"httpHeaderAuth": self.credentials[webhooks]}
            elif node["name"] in ("Settings", "Which execution"):
                for assignment in parameters["assignments"]["assignments"]:
                    assignment["value"] = values.get(assignment["name"], assignment["value"])
        return workflow

    def begin(self, workflow: Workflow) -> str:
        return self.n8n.execute(self.n8n.create_workflow(workflow))

    def run(self, workflow: Workflow) -> Result:
        return self.n8n.wait(self.begin(workflow))

    def record(self, name: str, workflow: Workflow) -> Result:
        """Run a workflow that calls the recorder, and keep what was sent and received."""
        self.recorder.forget()
        result = self.run(workflow)
        self.recordings[name] = [exchange.as_json() for exchange in self.recorder.exchanges]
        return result

    def jobs_of(self, execution_id: str) -> list[dict[str, Any]]:
        """The jobs that an execution has submitted."""
        return [job for job in self.service.jobs() if (job["label"] or "").startswith(f"n8n {execution_id} ")]

    def wait_for_jobs(self, execution_id: str, count: int, seconds: float = 120) -> list[dict[str, Any]]:
        end = time.monotonic() + seconds
        while len(jobs := self.jobs_of(execution_id)) < count:
            assert time.monotonic() < end, f"{len(jobs)} jobs, not {count}"
            time.sleep(0.2)
        return jobs


@contextmanager
def opened(installation: Installation, folder: Path, **n8n_settings: str) -> Iterator[Workshop]:
    with ExitStack() as resources:
        homes = [folder / name for name in ("n8n", "service")]
        for home in homes:
            home.mkdir(parents=True)
        install_nodes(FOLDER / "node", homes[0])
        n8n = N8n(installation, homes[0], **n8n_settings)
        n8n.start()
        resources.callback(lambda: n8n.kill())
        redis_url = resources.enter_context(valkey_server(homes[1]))
        service = resources.enter_context(Service(redis_url, homes[1], [n8n.url]))
        recorder = resources.enter_context(recording(service.url))
        workshop = Workshop(installation, folder, n8n, service, recorder)
        workshop.credentials = workshop.sign_up(n8n)
        yield workshop


def node_of(workflow: Workflow, name: str) -> Any:
    """The node itself, to be changed."""
    return next(node for node in workflow["nodes"] if node["name"] == name)


def with_body(workflow: Workflow, node: str, **fields: str) -> Workflow:
    """Add fields to the body that a node sends."""
    changed = deepcopy(workflow)
    parameters = node_of(changed, node)["parameters"]["bodyParameters"]["parameters"]
    parameters += [{"name": name, "value": value} for name, value in fields.items()]
    return changed


def simulating(**simulation: object) -> str:
    """The value of the field `metadata` with which the null engine simulates something, as an expression of n8n."""
    return "={{ (" + json.dumps({"simulate": simulation}).replace("}}", "} }") + ") }}"


def files() -> Mapping[str, Path]:
    return {path.name: path for path in FILES}
