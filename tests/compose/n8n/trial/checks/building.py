"""The nodes, workflows and credentials that the checks create, and what they wait for."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import requests

from tests.compose.n8n.trial.editor import Failure, N8n, Result
from tests.compose.n8n.trial.workshop import KEY, Workflow, Workshop
from tests.shared.webhooks.receiver import SECRET

Check = Callable[[Workshop], str]
Reference = dict[str, str]

PACKAGE = "n8n-nodes-imagegen"
#: For everything that happens soon, on a busy machine.
SOON_SECONDS = 120


def node(
    name: str,
    kind: str,
    version: float,
    parameters: Mapping[str, Any] | None = None,
    credentials: Mapping[str, Reference] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    basis = {"id": str(uuid4()), "name": name, "type": kind, "typeVersion": version, "position": [0, 0], **extra}
    return {**basis, "parameters": dict(parameters or {}), "credentials": dict(credentials or {})}


def chain(*nodes: dict[str, Any], name: str = "nodes") -> Workflow:
    """The nodes one after the other, behind *Start* unless the first one is a trigger of that name."""
    if nodes[0]["name"] != "Start":
        nodes = (node("Start", "n8n-nodes-base.manualTrigger", 1), *nodes)
    names = [each["name"] for each in nodes]
    links = {a: {"main": [[{"node": b, "type": "main", "index": 0}]]} for a, b in itertools.pairwise(names)}
    return {"name": name, "nodes": list(nodes), "connections": links, "settings": {"executionOrder": "v1"}}


def imagegen(workshop: Workshop, **steps: dict[str, Any]) -> Workflow:
    """The steps one after the other, each an Imagegen node with these parameters."""
    credentials = imagegen_credentials(workshop)
    return chain(*(node(name, f"{PACKAGE}.imagegen", 1, step, credentials) for name, step in steps.items()))


def imagegen_credentials(workshop: Workshop) -> dict[str, Reference]:
    if "nodes" not in workshop.credentials:
        data = {"baseUrl": workshop.service.url, "apiKey": KEY, "webhookSecret": SECRET}
        workshop.credentials["nodes"] = workshop.n8n.create_credential("imagegen nodes", "imagegenApi", data)
    return {"imagegenApi": workshop.credentials["nodes"]}


def verdict(workshop: Workshop, reference: Reference, kind: str, data: dict[str, str]) -> str:
    """What the test of a credential in the editor says: OK or Error."""
    body = {"credentials": {**reference, "type": kind, "data": data}}
    return str(workshop.n8n.call("POST", "/rest/credentials/test", body)["status"])


def simulated(**simulation: object) -> dict[str, Any]:
    """The options of an Imagegen node with which the null engine simulates something."""
    return {"options": {"more": json.dumps({"metadata": {"simulate": simulation}})}}


def publish(workshop: Workshop, workflow: Workflow, url: str) -> str:
    """Publish a workflow that begins with a webhook at this address; its id."""
    workflow_id = workshop.n8n.create_workflow(workflow)
    workshop.n8n.publish(workflow_id)
    for _ in _patience("the webhook is not registered"):
        if "not registered for GET" in requests.get(url, timeout=60).text:
            break
    return workflow_id


def executions(workshop: Workshop, workflow_id: str, count: int) -> list[str]:
    """The executions of a workflow, newest first, as soon as there are so many."""
    query = f"/rest/executions?filter={json.dumps({'workflowId': workflow_id})}&limit=10"
    for _ in _patience(f"workflow {workflow_id} has not {count} executions"):
        if len(found := workshop.n8n.call("GET", query)["results"]) >= count:
            break
    return [str(execution["id"]) for execution in found]


def submit(workshop: Workshop, webhook_url: str) -> str:
    body = {"prompt": "a castle", "webhook_url": webhook_url}
    response = requests.post(f"{workshop.service.url}/api/jobs", json=body, headers={"X-API-Key": KEY}, timeout=60)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def wait_until_cancelled(workshop: Workshop, execution: str) -> None:
    """A running job ends after its step."""
    for _ in _patience(f"the jobs of execution {execution} are not cancelled"):
        if {job["state"] for job in workshop.jobs_of(execution)} == {"cancelled"}:
            break


def wait_until_asleep(n8n: N8n, execution: str) -> None:
    for _ in _patience(f"execution {execution} does not sleep"):
        if n8n.execution(execution).status == "waiting":
            break


def images(result: Result, *nodes: str) -> list[dict[str, Any]]:
    """The items with an image, of these nodes or at the end of any of the files."""
    names = nodes or ("The image", "Results")
    found = [item for name in names for item in result.items(name) if item.get("binary")]
    assert all(item["binary"]["data"]["mimeType"] == "image/png" for item in found)
    return found


def problems(result: Result) -> dict[str, str]:
    """What is wrong, by prompt."""
    items = [item["json"] for item in result.items("Failed")]
    return {item["prompt"]: item["problem"] for item in items}


def _patience(failure: str) -> Iterator[None]:
    """Again and again, for a while."""
    end = time.monotonic() + SOON_SECONDS
    while time.monotonic() < end:
        yield
        time.sleep(0.2)
    raise Failure(failure)
