"""Starts an n8n and does what its user does: choose credentials, press Execute workflow, look at the result."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from tests.compose.n8n.trial.flatted import unflatten
from tests.compose.n8n.trial.installation import Installation
from tests.stack import free_port
from tests.support.process import Process

OWNER = {"email": "owner@example.com", "firstName": "O", "lastName": "W", "password": "Correct-horse-7"}
ENDED = ("success", "error", "crashed", "canceled")
#: On a busy machine.
START_SECONDS = 600
CALL_SECONDS = 300


class Failure(AssertionError):
    """n8n did not do what it was asked to."""


@dataclass(frozen=True)
class Result:
    """An execution that has ended."""

    status: str
    nodes: Mapping[str, Any]
    """The runs of every node that ran."""
    error: Mapping[str, Any]

    def items(self, node: str, output: int = 0) -> list[dict[str, Any]]:
        """The items that a node sent to one of its outputs, in all its runs."""
        return list(self._items(node, output))

    def _items(self, node: str, output: int) -> Iterator[dict[str, Any]]:
        for run in self.nodes.get(node, ()):
            outputs = (run.get("data") or {}).get("main") or []
            if output < len(outputs):
                yield from outputs[output] or ()


class N8n:
    """One n8n with a database of its own."""

    def __init__(self, installation: Installation, folder: Path, **settings: str) -> None:
        self._installation, self._folder = installation, folder
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self._settings = {
            **installation.environment,
            "N8N_USER_FOLDER": str(folder),
            "N8N_PORT": str(self.port),
            "N8N_LISTEN_ADDRESS": "127.0.0.1",
            "N8N_SECURE_COOKIE": "false",
            "N8N_DIAGNOSTICS_ENABLED": "false",
            "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
            "N8N_TEMPLATES_ENABLED": "false",
            "N8N_PERSONALIZATION_ENABLED": "false",
            "N8N_RUNNERS_BROKER_PORT": str(free_port()),
            "NODE_FUNCTION_ALLOW_BUILTIN": "crypto",
            "WEBHOOK_URL": f"{self.url}/",
            **settings,
        }
        self._http = requests.Session()
        # n8n closes an idle connection just when it is used again; only calls that change nothing are repeated.
        self._http.mount("http://", HTTPAdapter(max_retries=3))
        self._process: Process | None = None

    def start(self) -> None:
        command = [str(self._installation.node), str(self._installation.program), "start"]
        self._process = Process(command, self._folder, self._settings)
        self._process.wait_for("Editor is now accessible", seconds=START_SECONDS)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(seconds=90)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    @property
    def log(self) -> str:
        return self._process.output if self._process is not None else ""

    def set_up(self) -> None:
        """Create the owner and sign in."""
        self.call("POST", "/rest/owner/setup", OWNER)

    def sign_in(self) -> None:
        self.call("POST", "/rest/login", {"emailOrLdapLoginId": OWNER["email"], "password": OWNER["password"]})

    def get(self, path: str) -> Any:
        """A file of the editor."""
        response = self._http.get(self.url + path, timeout=CALL_SECONDS)
        response.raise_for_status()
        return response.json()

    def call(self, method: str, path: str, body: object = None) -> Any:
        response = self._http.request(method, self.url + path, json=body, timeout=CALL_SECONDS)
        if not response.ok:
            raise Failure(f"{method} {path}: {response.status_code} {response.text[:2000]}")
        return response.json().get("data")

    def command(self, *arguments: str) -> str:
        """Run a command of n8n's command line on the same database."""
        command = [str(self._installation.node), str(self._installation.program), *arguments]
        result = subprocess.run(
            command,
            env=self._settings,
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
        )
        if result.returncode:
            raise Failure(f"n8n {' '.join(arguments)}: {result.stdout}{result.stderr}")
        return result.stdout

    def create_credential(self, name: str, kind: str, data: Mapping[str, object]) -> dict[str, str]:
        """The reference by which nodes use the new credential."""
        created = self.call("POST", "/rest/credentials", {"name": name, "type": kind, "data": dict(data)})
        return {"id": created["id"], "name": name}

    def create_workflow(self, workflow: Mapping[str, Any]) -> str:
        """Paste a workflow into a new tab of the editor; its id."""
        body = {key: workflow[key] for key in ("name", "nodes", "connections", "settings")}
        return str(self.call("POST", "/rest/workflows", body)["id"])

    def workflow(self, workflow_id: str) -> dict[str, Any]:
        return dict(self.call("GET", f"/rest/workflows/{workflow_id}"))

    def change(self, workflow_id: str, workflow: Mapping[str, Any]) -> None:
        current = self.workflow(workflow_id)
        body = {key: workflow[key] for key in ("name", "nodes", "connections", "settings")}
        self.call("PATCH", f"/rest/workflows/{workflow_id}?forceSave=true", {**body, "versionId": current["versionId"]})

    def publish(self, workflow_id: str) -> None:
        version = self.workflow(workflow_id)["versionId"]
        self.call("POST", f"/rest/workflows/{workflow_id}/activate", {"versionId": version})

    def execute(self, workflow_id: str, trigger: str = "Start") -> str:
        """Press *Execute workflow*; the id of the execution."""
        body = {"triggerToStartFrom": {"name": trigger}}
        return str(self.call("POST", f"/rest/workflows/{workflow_id}/run", body)["executionId"])

    def execution(self, execution_id: str) -> Result:
        raw = self.call("GET", f"/rest/executions/{execution_id}")
        data = unflatten(json.loads(raw["data"])) if isinstance(raw["data"], str) else raw["data"]
        result = (data or {}).get("resultData") or {}
        return Result(raw["status"], result.get("runData") or {}, result.get("error") or {})

    def wait(self, execution_id: str, seconds: float = 300) -> Result:
        """The ended execution."""
        end = time.monotonic() + seconds
        while (result := self.execution(execution_id)).status not in ENDED:
            if time.monotonic() > end:
                raise Failure(f"execution {execution_id} is {result.status} after {seconds} s: {list(result.nodes)}")
            time.sleep(0.5)
        return result

    def stop_execution(self, execution_id: str) -> None:
        self.call("POST", f"/rest/executions/{execution_id}/stop")
