"""What the community nodes of compose/n8n/node promise, each checked in a real n8n."""

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests

from tests.compose.n8n.trial.checks import Check
from tests.compose.n8n.trial.editor import Failure, N8n
from tests.compose.n8n.trial.workshop import KEY, TOKEN, Workflow, Workshop
from tests.compose.n8n.workflows import FOLDER
from tests.shared.webhooks.receiver import SECRET

DOCUMENT = Path(__file__).parents[4] / "docs" / "n8n.md"
PACKAGE = "n8n-nodes-imagegen"


def the_credential_can_be_tested(workshop: Workshop) -> str:
    answers = [_tested(workshop, key)["status"] for key in (KEY, "wrong-key-0123456789")]
    assert answers == ["OK", "Error"], answers
    return "a wrong key is found before the first call"


def the_models_are_listed(workshop: Workshop) -> str:
    credential = _credential(workshop)
    query = {
        "path": "parameters.model",
        "methodName": "getModels",
        "nodeTypeAndVersion": {"name": f"{PACKAGE}.imagegen", "version": 1},
        "currentNodeParameters": {"resource": "image", "operation": "generate"},
        "credentials": {"imagegenApi": credential},
    }
    options = workshop.n8n.call("POST", "/rest/dynamic-node-parameters/options", query)
    assert any("null" in option["name"] for option in options), options
    listed = workshop.run(_workflow(credential, models={"resource": "model", "operation": "getAll"}))
    assert listed.items("models")[0]["json"]["name"] == "null"
    return f"{len(options)} in the list of the field *Model*"


def images_are_generated_and_changed(workshop: Workshop) -> str:
    generate = {"prompt": "a castle", "options": {"width": 48, "seed": 7, "num_images": 2}}
    edit = {"operation": "edit", "prompt": "at night", "options": {"strength": 0.5}}
    result = workshop.run(_workflow(_credential(workshop), generated=generate, changed=edit))
    generated, changed = result.items("generated"), result.items("changed")
    assert [item["json"]["seed"] for item in generated] == [7, 8]
    assert len(changed) == 2, result.error
    assert {item["binary"]["data"]["mimeType"] for item in (*generated, *changed)} == {"image/png"}
    request = workshop.service.job(changed[0]["json"]["job"])["request"]
    assert (request["prompt"], request["strength"]) == ("at night", 0.5)
    return "two images, then *Edit* for each of them: binary `data`"


def a_job_is_submitted_read_awaited_and_cancelled(workshop: Workshop) -> str:
    slow = {"metadata": {"simulate": {"seconds": 8}}}
    submit = {"prompt": "a castle", "waitForImages": False, "options": {"more": json.dumps(slow)}}
    steps = {
        operation: {"resource": "job", "operation": operation, "jobId": "={{ $('submitted').first().json.id }}"}
        for operation in ("get", "wait")
    }
    result = workshop.run(_workflow(_credential(workshop), submitted=submit, **steps))
    assert result.items("get")[0]["json"]["state"] in ("queued", "running")
    assert result.items("wait")[0]["binary"]["data"]["mimeType"] == "image/png"
    cancel = {"resource": "job", "operation": "cancel", "jobId": "={{ $json.id }}"}
    result = workshop.run(_workflow(_credential(workshop), submitted=submit, cancelled=cancel))
    job = result.items("cancelled")[0]["json"]["id"]
    assert _state(workshop, job, "cancelled")
    return "*Get*, *Wait For* and *Cancel*"


def a_problem_is_an_item_or_an_error(workshop: Workshop) -> str:
    credential = _credential(workshop)
    wrong = workshop.run(_workflow(credential, generated={"prompt": "={{ '' }}"}))
    assert wrong.error["message"] == "prompt must not be empty.", wrong.error
    failing = {"prompt": "x", "options": {"more": json.dumps({"metadata": {"simulate": {"fail": "out-of-memory"}}})}}
    workflow = _workflow(credential, generated=failing)
    workflow["nodes"][1]["onError"] = "continueRegularOutput"
    (item,) = workshop.run(workflow).items("generated")
    assert item["json"]["error"] == "The device has too little memory for this size."
    withheld = {"num_images": 2, "metadata": {"simulate": {"flag": 1}}}
    result = workshop.run(_workflow(credential, generated={"prompt": "x", "options": {"more": json.dumps(withheld)}}))
    first, second = result.items("generated")
    assert first["json"]["problem"] == "The safety checker withheld the image."
    assert second["binary"]["data"]["mimeType"] == "image/png"
    return "`prompt must not be empty.`; a withheld image does not fail the other one"


def the_node_outlasts_a_restart_of_the_service(workshop: Workshop) -> str:
    slow = {"metadata": {"simulate": {"seconds": 3}}}
    workflow = _workflow(_credential(workshop), generated={"prompt": "x", "options": {"more": json.dumps(slow)}})
    execution = workshop.begin(workflow)
    _job_of(workshop, execution)
    workshop.service.stop()
    time.sleep(30)
    workshop.service.start()
    assert len(workshop.n8n.wait(execution).items("generated")) == 1
    return "away for 30 s while it waits"


def a_stopped_execution_cancels_its_job(workshop: Workshop) -> str:
    slow = {"metadata": {"simulate": {"seconds": 60}}}
    workflow = _workflow(_credential(workshop), generated={"prompt": "x", "options": {"more": json.dumps(slow)}})
    execution = workshop.begin(workflow)
    job = _job_of(workshop, execution)
    workshop.n8n.stop_execution(execution)
    assert _state(workshop, job, "cancelled")
    return "*Stop* in the editor cancels the job"


def a_copy_of_the_node_gets_its_own_image(workshop: Workshop) -> str:
    generate = {"prompt": "a castle"}
    result = workshop.run(_workflow(_credential(workshop), one=generate, two=generate))
    assert result.items("one")[0]["json"]["job"] != result.items("two")[0]["json"]["job"]
    return "two jobs"


def the_trigger_takes_only_signed_calls(workshop: Workshop) -> str:
    path = str(uuid4())
    workflow = _workflow(_credential(workshop))
    workflow["nodes"] = [
        _node("Start", f"{PACKAGE}.imagegenTrigger", 1, {"download": True}, _credential(workshop), webhookId=path)
    ]
    url = f"{workshop.n8n.url}/webhook/{path}/imagegen"
    executions = _published(workshop, workflow, url)
    forged = requests.post(url, json={"type": "job.succeeded", "data": {"state": "succeeded"}}, timeout=10)
    assert forged.status_code == 401, forged.text
    job = _submit(workshop, url)
    (execution,) = executions(1)
    (item,) = workshop.n8n.wait(execution).items("Start")
    assert (item["json"]["job"], item["binary"]["data"]["mimeType"]) == (job, "image/png")
    return "the image of a signed call; 401 for a forged one"


def the_built_folder_can_be_mounted(workshop: Workshop) -> str:
    home = workshop.folder / "mounted"
    home.mkdir()
    n8n = N8n(workshop.installation, home, N8N_CUSTOM_EXTENSIONS=str(FOLDER / "node" / "dist"))
    n8n.start()
    try:
        n8n.set_up()
        data = {"baseUrl": workshop.service.url, "apiKey": KEY, "webhookSecret": SECRET}
        workflow = _workflow(n8n.create_credential("imagegen", "imagegenApi", data), generated={"prompt": "x"})
        workflow["nodes"][1]["type"] = "CUSTOM.imagegen"
        result = n8n.wait(n8n.execute(n8n.create_workflow(workflow)))
    finally:
        n8n.kill()
    assert result.items("generated")[0]["binary"]["data"]["mimeType"] == "image/png"
    return "`N8N_CUSTOM_EXTENSIONS`, as in Docker"


def the_openai_node_generates_images(workshop: Workshop) -> str:
    data = {"apiKey": KEY, "url": f"{workshop.service.url}/v1"}
    credential = workshop.n8n.create_credential("imagegen as OpenAI", "openAiApi", data)
    assert _tested_as(workshop, credential, "openAiApi", data)["status"] == "OK"
    kind, version = "@n8n/n8n-nodes-langchain.openAi", 2.3
    query = {
        "path": "parameters.modelId",
        "methodName": "imageGenerateModelSearch",
        "nodeTypeAndVersion": {"name": kind, "version": version},
        "currentNodeParameters": {},
        "credentials": {"openAiApi": credential},
    }
    listed = workshop.n8n.call("POST", "/rest/dynamic-node-parameters/resource-locator-results", query)["results"]
    model = {"__rl": True, "mode": "list", "value": listed[0]["value"]}
    parameters = {"resource": "image", "operation": "generate", "modelId": model, "prompt": "a castle", "options": {}}
    workflow = _workflow(credential, generated=parameters)
    workflow["nodes"][1] |= {"type": kind, "typeVersion": version, "credentials": {"openAiApi": credential}}
    result = workshop.run(workflow)
    assert result.items("generated")[0]["binary"]["data"], result.error
    names = ", ".join(f"`{entry['value']}`" for entry in listed)
    return f"*Generate an Image* with any of {names}"


def the_code_in_the_document_verifies_webhooks(workshop: Workshop) -> str:
    (code,) = re.findall(r"^```javascript\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    path = str(uuid4())
    options = {"rawBody": True}
    webhook = {"httpMethod": "POST", "path": path, "authentication": "headerAuth", "options": options}
    verify = {"jsCode": code.replace("whsec_...", SECRET)}
    workflow = _workflow(_credential(workshop))
    token = {"httpHeaderAuth": workshop.credentials["token"]}
    workflow["nodes"] = [
        {**_node("Start", "n8n-nodes-base.webhook", 2, webhook, None, webhookId=path), "credentials": token},
        _node("Verify", "n8n-nodes-base.code", 2, verify, None),
    ]
    workflow["connections"] = {"Start": {"main": [[{"node": "Verify", "type": "main", "index": 0}]]}}
    url = f"{workshop.n8n.url}/webhook/{path}"
    executions = _published(workshop, workflow, url)
    requests.post(url, json={"type": "job.succeeded"}, headers={"X-Webhook-Token": TOKEN}, timeout=10)
    (forged,) = executions(1)
    assert workshop.n8n.wait(forged).status == "error"
    job = _submit(workshop, url)
    (signed, _) = executions(2)
    assert workshop.n8n.wait(signed).items("Verify")[0]["json"]["data"]["id"] == job
    return "a signed call passes, a forged one stops"


def _node(
    name: str, kind: str, version: float, parameters: dict[str, Any], credential: dict[str, str] | None, **extra: Any
) -> dict[str, Any]:
    node = {"id": str(uuid4()), "name": name, "type": kind, "typeVersion": version, "position": [0, 0], **extra}
    credentials = {} if credential is None else {"credentials": {"imagegenApi": credential}}
    return {**node, "parameters": parameters, **credentials}


def _workflow(credential: dict[str, str], **steps: dict[str, Any]) -> Workflow:
    """The steps one after the other, each an Imagegen node."""
    nodes = [_node("Start", "n8n-nodes-base.manualTrigger", 1, {}, None)]
    nodes += [_node(name, f"{PACKAGE}.imagegen", 1, step, credential) for name, step in steps.items()]
    names = [node["name"] for node in nodes]
    links = {a: {"main": [[{"node": b, "type": "main", "index": 0}]]} for a, b in itertools.pairwise(names)}
    return {"name": "nodes", "nodes": nodes, "connections": links, "settings": {"executionOrder": "v1"}}


def _credential(workshop: Workshop) -> dict[str, str]:
    if "nodes" not in workshop.credentials:
        data = {"baseUrl": workshop.service.url, "apiKey": KEY, "webhookSecret": SECRET}
        workshop.credentials["nodes"] = workshop.n8n.create_credential("imagegen nodes", "imagegenApi", data)
    return workshop.credentials["nodes"]


def _tested(workshop: Workshop, key: str) -> dict[str, Any]:
    data = {"baseUrl": workshop.service.url + "/", "apiKey": key, "webhookSecret": ""}
    reference = workshop.n8n.create_credential(f"test of {key}", "imagegenApi", data)
    return _tested_as(workshop, reference, "imagegenApi", data)


def _tested_as(workshop: Workshop, reference: dict[str, str], kind: str, data: dict[str, str]) -> dict[str, Any]:
    body = {"credentials": {**reference, "type": kind, "data": data}}
    return dict(workshop.n8n.call("POST", "/rest/credentials/test", body))


def _job_of(workshop: Workshop, execution: str, seconds: float = 20) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for job in workshop.jobs_of(execution):
            if job["state"] in ("queued", "running"):
                return str(job["id"])
        time.sleep(0.2)
    raise Failure(f"execution {execution} has no job")


def _state(workshop: Workshop, job: str, state: str, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while (current := workshop.service.job(job)["state"]) != state:
        if time.monotonic() > end:
            raise Failure(f"the job is {current}, not {state}")
        time.sleep(0.2)
    return True


def _published(workshop: Workshop, workflow: Workflow, url: str) -> Any:
    """Publish a workflow that begins with a webhook; a function that waits for its executions, newest first."""
    workflow_id = workshop.n8n.create_workflow(workflow)
    workshop.n8n.publish(workflow_id)
    end = time.monotonic() + 20
    while requests.get(url, timeout=10).text.find("not registered for GET") < 0:
        assert time.monotonic() < end, requests.get(url, timeout=10).text
        time.sleep(0.2)

    def executions(count: int, seconds: float = 30) -> list[str]:
        end = time.monotonic() + seconds
        query = f"/rest/executions?filter={json.dumps({'workflowId': workflow_id})}&limit=10"
        while len(found := workshop.n8n.call("GET", query)["results"]) < count:
            assert time.monotonic() < end, f"{len(found)} executions, not {count}"
            time.sleep(0.5)
        return [str(execution["id"]) for execution in found]

    return executions


def _submit(workshop: Workshop, webhook_url: str) -> str:
    body = {"prompt": "a castle", "webhook_url": webhook_url}
    headers = {"X-API-Key": KEY}
    response = requests.post(f"{workshop.service.url}/api/jobs", json=body, headers=headers, timeout=30)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


NODE_CHECKS: dict[str, Check] = {
    "nodes: credential": the_credential_can_be_tested,
    "nodes: models": the_models_are_listed,
    "nodes: generate and edit": images_are_generated_and_changed,
    "nodes: jobs": a_job_is_submitted_read_awaited_and_cancelled,
    "nodes: problems": a_problem_is_an_item_or_an_error,
    "nodes: restart of the service": the_node_outlasts_a_restart_of_the_service,
    "nodes: a stopped execution": a_stopped_execution_cancels_its_job,
    "nodes: a duplicated node": a_copy_of_the_node_gets_its_own_image,
    "nodes: trigger": the_trigger_takes_only_signed_calls,
    "nodes: the folder mounted": the_built_folder_can_be_mounted,
    "OpenAI node": the_openai_node_generates_images,
    "Code node that verifies webhooks": the_code_in_the_document_verifies_webhooks,
}
