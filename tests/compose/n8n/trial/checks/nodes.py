"""What the community nodes of compose/n8n/node promise, each checked in a real n8n."""

import json
import re
import time
from pathlib import Path
from uuid import uuid4

import requests

from tests.compose.n8n.trial.checks.building import (
    PACKAGE,
    Check,
    chain,
    executions,
    imagegen,
    imagegen_credentials,
    images,
    node,
    publish,
    simulated,
    submit,
    verdict,
    wait_until_cancelled,
)
from tests.compose.n8n.trial.editor import N8n
from tests.compose.n8n.trial.workshop import KEY, TOKEN, Workshop
from tests.compose.n8n.workflows import FOLDER
from tests.shared.webhooks.receiver import SECRET

DOCUMENT = Path(__file__).parents[5] / "docs" / "n8n.md"


def the_credential_can_be_tested(workshop: Workshop) -> str:
    verdicts = []
    for key in KEY, "wrong-key-0123456789":
        data = {"baseUrl": workshop.service.url + "/", "apiKey": key, "webhookSecret": ""}
        reference = workshop.n8n.create_credential(f"test of {key}", "imagegenApi", data)
        verdicts.append(verdict(workshop, reference, "imagegenApi", data))
    assert verdicts == ["OK", "Error"], verdicts
    return "a wrong key is found before the first call"


def the_models_are_listed(workshop: Workshop) -> str:
    query = {
        "path": "parameters.model",
        "methodName": "getModels",
        "nodeTypeAndVersion": {"name": f"{PACKAGE}.imagegen", "version": 1},
        "currentNodeParameters": {"resource": "image", "operation": "generate"},
        "credentials": imagegen_credentials(workshop),
    }
    options = workshop.n8n.call("POST", "/rest/dynamic-node-parameters/options", query)
    assert any("null" in option["name"] for option in options), options
    listed = workshop.run(imagegen(workshop, models={"resource": "model", "operation": "getAll"}))
    assert listed.items("models")[0]["json"]["name"] == "null"
    return f"{len(options)} in the list of the field *Model*"


def images_are_generated_and_changed(workshop: Workshop) -> str:
    generate = {"prompt": "a castle", "options": {"width": 48, "seed": 7, "num_images": 2}}
    edit = {"operation": "edit", "prompt": "at night", "options": {"strength": 0.5}}
    result = workshop.run(imagegen(workshop, generated=generate, changed=edit))
    generated, changed = images(result, "generated"), images(result, "changed")
    assert [item["json"]["seed"] for item in generated] == [7, 8]
    assert len(changed) == 2, result.error
    request = workshop.service.job(changed[0]["json"]["job"])["request"]
    assert (request["prompt"], request["strength"]) == ("at night", 0.5)
    return "two images, then *Edit* for each of them: binary `data`"


def a_job_is_submitted_read_awaited_and_cancelled(workshop: Workshop) -> str:
    first = {"prompt": "a castle", "waitForImages": False, **simulated(seconds=8)}
    steps = {
        operation: {"resource": "job", "operation": operation, "jobId": "={{ $('submitted').first().json.id }}"}
        for operation in ("get", "wait")
    }
    result = workshop.run(imagegen(workshop, submitted=first, **steps))
    assert result.items("get")[0]["json"]["state"] in ("queued", "running")
    assert len(images(result, "wait")) == 1
    endless = {**first, **simulated(seconds=120)}
    cancel = {"resource": "job", "operation": "cancel", "jobId": "={{ $json.id }}"}
    execution = workshop.begin(imagegen(workshop, submitted=endless, cancelled=cancel))
    assert workshop.n8n.wait(execution).items("cancelled")
    wait_until_cancelled(workshop, execution)
    return "*Get*, *Wait For* and *Cancel*"


def a_problem_is_an_item_or_an_error(workshop: Workshop) -> str:
    wrong = workshop.run(imagegen(workshop, generated={"prompt": "={{ '' }}"}))
    assert wrong.error["message"] == "prompt must not be empty.", wrong.error
    workflow = imagegen(workshop, generated={"prompt": "x", **simulated(fail="out-of-memory")})
    workflow["nodes"][1]["onError"] = "continueRegularOutput"
    (item,) = workshop.run(workflow).items("generated")
    assert item["json"]["error"] == "The device has too little memory for this size."
    more = json.dumps({"num_images": 2, "metadata": {"simulate": {"flag": 1}}})
    result = workshop.run(imagegen(workshop, generated={"prompt": "x", "options": {"more": more}}))
    first, second = result.items("generated")
    assert first["json"]["problem"] == "The safety checker withheld the image."
    assert second["binary"]["data"]["mimeType"] == "image/png"
    return "`prompt must not be empty.`; a withheld image does not fail the other one"


def the_node_outlasts_a_restart_of_the_service(workshop: Workshop) -> str:
    execution = workshop.begin(imagegen(workshop, generated={"prompt": "x", **simulated(seconds=20)}))
    workshop.wait_for_jobs(execution, 1)
    workshop.service.stop()
    time.sleep(30)
    workshop.service.start()
    assert len(images(workshop.n8n.wait(execution), "generated")) == 1
    assert len(workshop.jobs_of(execution)) == 1
    return "away for 30 s while it waits"


def a_stopped_execution_cancels_its_job(workshop: Workshop) -> str:
    execution = workshop.begin(imagegen(workshop, generated={"prompt": "x", **simulated(seconds=120)}))
    workshop.wait_for_jobs(execution, 1)
    workshop.n8n.stop_execution(execution)
    wait_until_cancelled(workshop, execution)
    return "*Stop* in the editor cancels the job"


def a_copy_of_the_node_gets_its_own_image(workshop: Workshop) -> str:
    generate = {"prompt": "a castle"}
    result = workshop.run(imagegen(workshop, one=generate, two=generate))
    assert result.items("one")[0]["json"]["job"] != result.items("two")[0]["json"]["job"]
    return "two jobs"


def the_trigger_takes_only_signed_calls(workshop: Workshop) -> str:
    path, kind = str(uuid4()), f"{PACKAGE}.imagegenTrigger"
    start = node("Start", kind, 1, {"download": True}, imagegen_credentials(workshop), webhookId=path)
    url = f"{workshop.n8n.url}/webhook/{path}/imagegen"
    workflow_id = publish(workshop, chain(start), url)
    forged = requests.post(url, json={"type": "job.succeeded", "data": {"state": "succeeded"}}, timeout=60)
    assert forged.status_code == 401, forged.text
    job = submit(workshop, url)
    (execution,) = executions(workshop, workflow_id, 1)
    (item,) = images(workshop.n8n.wait(execution), "Start")
    assert item["json"]["job"] == job
    return "the image of a signed call; 401 for a forged one"


def the_built_folder_can_be_mounted(workshop: Workshop) -> str:
    home = workshop.folder / "mounted"
    home.mkdir()
    n8n = N8n(workshop.installation, home, N8N_CUSTOM_EXTENSIONS=str(FOLDER / "node" / "dist"))
    n8n.start()
    try:
        n8n.set_up()
        data = {"baseUrl": workshop.service.url, "apiKey": KEY, "webhookSecret": SECRET}
        credentials = {"imagegenApi": n8n.create_credential("imagegen", "imagegenApi", data)}
        workflow = chain(node("generated", "CUSTOM.imagegen", 1, {"prompt": "x"}, credentials))
        result = n8n.wait(n8n.execute(n8n.create_workflow(workflow)))
    finally:
        n8n.kill()
    assert len(images(result, "generated")) == 1
    return "`N8N_CUSTOM_EXTENSIONS`, as in Docker"


def the_code_in_the_document_verifies_webhooks(workshop: Workshop) -> str:
    (code,) = re.findall(r"^```javascript\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    path = str(uuid4())
    webhook = {"httpMethod": "POST", "path": path, "authentication": "headerAuth", "options": {"rawBody": True}}
    token = {"httpHeaderAuth": workshop.credentials["token"]}
    workflow = chain(
        node("Start", "n8n-nodes-base.webhook", 2, webhook, token, webhookId=path),
        node("Verify", "n8n-nodes-base.code", 2, {"jsCode": code.replace("whsec_...", SECRET)}),
    )
    url = f"{workshop.n8n.url}/webhook/{path}"
    workflow_id = publish(workshop, workflow, url)
    requests.post(url, json={"type": "job.succeeded"}, headers={"X-Webhook-Token": TOKEN}, timeout=60)
    (forged,) = executions(workshop, workflow_id, 1)
    assert workshop.n8n.wait(forged).status == "error"
    job = submit(workshop, url)
    (signed, _) = executions(workshop, workflow_id, 2)
    assert workshop.n8n.wait(signed).items("Verify")[0]["json"]["data"]["id"] == job
    return "a signed call passes, a forged one stops"


NODES: dict[str, Check] = {
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
    "Code node that verifies webhooks": the_code_in_the_document_verifies_webhooks,
}
