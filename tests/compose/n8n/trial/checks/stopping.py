"""What becomes of the jobs of executions that are stopped or fail, each checked in a real n8n."""

from uuid import uuid4

import requests

from tests.compose.n8n.trial.checks.building import (
    Check,
    executions,
    node,
    publish,
    wait_until_cancelled,
)
from tests.compose.n8n.trial.workshop import Workflow, Workshop, node_of, simulating, with_body

#: Not finished before it is cancelled.
ENDLESS = {"metadata": simulating(seconds=120)}


def a_stopped_execution_can_be_cancelled(workshop: Workshop) -> str:
    execution = workshop.begin(with_body(workshop.prepared("polling.json"), "Submit", **ENDLESS))
    workshop.wait_for_jobs(execution, 3)
    workshop.n8n.stop_execution(execution)
    cancelling = workshop.prepared("cancel.json", base_url=workshop.recorder.url, execution_id=execution)
    workshop.record("cancel", cancelling)
    wait_until_cancelled(workshop, execution)
    return "`cancel.json` with the number of the execution: its three jobs are cancelled"


def the_error_workflow_cancels_jobs(workshop: Workshop) -> str:
    cancelling = workshop.n8n.create_workflow(workshop.prepared("cancel.json"))
    failing = _polling(workshop, cancelling)
    node_of(failing, "Wait for the jobs").update(
        type="n8n-nodes-base.stopAndError", typeVersion=1, parameters={"errorMessage": "It fails."}
    )
    refused = _execution_of(workshop, failing)
    assert workshop.n8n.wait(refused).status == "error"
    assert "is not active and cannot be executed" in workshop.n8n.log
    workshop.n8n.publish(cancelling)
    failed = _execution_of(workshop, failing)
    wait_until_cancelled(workshop, failed)
    assert {job["state"] for job in workshop.jobs_of(refused)} <= {"queued", "running"}
    _cancel_by_hand(workshop, refused)
    return "`cancel.json`, published, cancels the job of a published workflow that fails"


def _polling(workshop: Workshop, error_workflow: str) -> Workflow:
    workflow = with_body(workshop.prepared("polling.json", prompts='["a"]'), "Submit", **ENDLESS)
    workflow["settings"]["errorWorkflow"] = error_workflow
    return workflow


def _execution_of(workshop: Workshop, workflow: Workflow) -> str:
    """The execution that a call of the workflow starts once it is published, as soon as it has submitted its job."""
    path = str(uuid4())
    parameters = {"httpMethod": "POST", "path": path, "options": {}}
    node_of(workflow, "Start").update(node("Start", "n8n-nodes-base.webhook", 2, parameters, webhookId=path))
    url = f"{workshop.n8n.url}/webhook/{path}"
    workflow_id = publish(workshop, workflow, url)
    requests.post(url, timeout=60)
    (execution,) = executions(workshop, workflow_id, 1)
    workshop.wait_for_jobs(execution, 1)
    return execution


def _cancel_by_hand(workshop: Workshop, execution: str) -> None:
    workshop.run(workshop.prepared("cancel.json", execution_id=execution))
    wait_until_cancelled(workshop, execution)


STOPPING: dict[str, Check] = {
    "a stopped execution": a_stopped_execution_can_be_cancelled,
    "the error workflow": the_error_workflow_cancels_jobs,
}
