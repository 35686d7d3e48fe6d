"""What the workflows of compose/n8n promise, each checked in a real n8n."""

import shutil
import time
from copy import deepcopy
from uuid import uuid4

from tests.compose.n8n.trial.checks.building import Check, images, problems, wait_until_asleep
from tests.compose.n8n.trial.editor import N8n
from tests.compose.n8n.trial.workshop import Workflow, Workshop, files, node_of, simulating, with_body

PROMPTS = '["a red heart", "", "a penguin"]'


def the_files_can_be_imported(workshop: Workshop) -> str:
    (first, *others), folder = files().values(), workshop.folder / "others"
    folder.mkdir()
    for path in others:
        shutil.copy(path, folder)
    workshop.n8n.command("import:workflow", f"--input={first}")
    workshop.n8n.command("import:workflow", "--separate", f"--input={folder}")
    listed = {workflow["id"] for workflow in workshop.n8n.call("GET", "/rest/workflows")}
    assert len(listed) == len(files()), listed
    return f"{len(listed)} files with `n8n import:workflow`"


def one_prompt_becomes_one_image(workshop: Workshop) -> str:
    result = workshop.record("synchronous", workshop.prepared("synchronous.json", base_url=workshop.recorder.url))
    (image,) = images(result)
    return f"binary `data`, {image['binary']['data']['fileSize']}, seed {image['json']['seed']}"


def an_image_is_changed(workshop: Workshop) -> str:
    result = workshop.record("edit", workshop.prepared("edit.json", base_url=workshop.recorder.url))
    (image,) = images(result)
    assert workshop.service.job(image["json"]["job"])["request"]["strength"] == 0.6
    return "sent as *n8n Binary File*"


def three_items_become_three_results(workshop: Workshop) -> str:
    batch = workshop.record("batch", setting(workshop, "batch.json"))
    results = [item["json"] for item in batch.items("Results")]
    assert [result["prompt"] for result in results] == ["a red heart", "", "a penguin"], results
    assert [item.get("binary", {}).get("data", {}).get("mimeType") for item in batch.items("Results")] == [
        "image/png",
        None,
        "image/png",
    ]
    for file in "polling.json", "asynchronous.json":
        result = workshop.record(file.removesuffix(".json"), setting(workshop, file))
        assert {image["json"]["prompt"] for image in images(result)} == {"a red heart", "a penguin"}
        assert problems(result) == {"": "prompt must not be empty."}
    return "two images and one problem in each of the three files for many prompts"


def items_from_another_node_are_all_used(workshop: Workshop) -> str:
    workflow = workshop.prepared("synchronous.json")
    settings = node_of(workflow, "Settings")
    split = {**node_of(workshop.prepared("batch.json"), "Split prompts"), "id": str(uuid4())}
    assignments = settings["parameters"]["assignments"]["assignments"]
    prompt = next(field for field in assignments if field["name"] == "prompt")
    prompt |= {"name": "prompts", "type": "array", "value": '["a", "b", "c"]'}
    split["parameters"] |= {"include": "allOtherFields"}
    workflow["nodes"].append(split)
    workflow["connections"]["Settings"]["main"][0][0]["node"] = "Split prompts"
    workflow["connections"]["Split prompts"] = {"main": [[{"node": "Request", "type": "main", "index": 0}]]}
    result = workshop.run(workflow)
    assert sorted(image["json"]["prompt"] for image in images(result)) == ["a", "b", "c"]
    return "three items into *one image, now*: three images"


def a_long_job_is_waited_for(workshop: Workshop) -> str:
    slow = {"metadata": simulating(seconds=6)}
    workflow = workshop.prepared("synchronous.json", base_url=workshop.recorder.url)
    result = workshop.record("synchronous-long", with_body(workflow, "Generate the image", **slow))
    (image,) = images(result)
    assert [exchange["code"] for exchange in workshop.recordings["synchronous-long"]] == ["not-finished", None]
    assert len(set(workshop.recorder.keys)) == 1
    assert image["json"]["job"]
    form = {"metadata": '{"simulate": {"seconds": 6}}'}
    (changed,) = images(workshop.run(with_body(workshop.prepared("edit.json"), "Change the image", **form)))
    assert changed["json"]["job"]
    return "one call ends with `not-finished`, the next one has the image: one job"


def a_withheld_image_fails_alone(workshop: Workshop) -> str:
    for file in "polling.json", "asynchronous.json":
        workflow = setting(workshop, file, prompts='["two images"]')
        fields = {"metadata": simulating(flag=1), "num_images": "={{ 2 }}"}
        name = file.removesuffix(".json") + "-withheld"
        result = workshop.record(name, with_body(workflow, "Submit", **fields))
        assert len(images(result)) == 1
        assert problems(result) == {"two images": "The safety checker withheld the image."}
    return "the other image of the job arrives"


def a_failed_job_is_a_problem_in_one_line(workshop: Workshop) -> str:
    found = set()
    for file, node in ("polling.json", "Submit"), ("asynchronous.json", "Submit"), ("batch.json", "Generate the image"):
        workflow = setting(workshop, file, prompts='["too large"]')
        result = workshop.run(with_body(workflow, node, metadata=simulating(fail="out-of-memory")))
        found |= set(problems(result).values())
    assert found == {"The device has too little memory for this size."}, found
    return f"`{found.pop()}`"


def what_cannot_pass_is_not_tried_again(workshop: Workshop) -> str:
    workflow = workshop.prepared("synchronous.json", base_url=workshop.recorder.url, prompt="")
    refused = workshop.record("synchronous-refused", workflow)
    assert [exchange["status"] for exchange in workshop.recordings["synchronous-refused"]] == [422]
    assert refused.error["message"] == "The image was not generated: prompt must not be empty.", refused.error
    workshop.recorder.forget()
    wrong_key = workshop.run(workshop.prepared("synchronous.json", base_url=workshop.recorder.url, credential="wrong"))
    assert [exchange.status for exchange in workshop.recorder.exchanges] == [401]
    assert "The API key is missing or invalid" in wrong_key.error["message"]
    return f"422 and 401: one call. `{refused.error['message']}`"


def a_restart_of_the_service_loses_nothing(workshop: Workshop) -> str:
    slow = {"metadata": simulating(seconds=3)}
    submitting_nodes = {
        "synchronous.json": "Generate the image",
        "batch.json": "Generate the image",
        "polling.json": "Submit",
        "asynchronous.json": "Submit",
    }
    executions = {
        file: workshop.begin(with_body(workshop.prepared(file), node, **slow))
        for file, node in submitting_nodes.items()
    }
    for execution in executions.values():
        workshop.wait_for_jobs(execution, 1)
    workshop.service.stop()
    # Submitted while the service is away.
    executions["synchronous.json (2)"] = workshop.begin(workshop.prepared("synchronous.json"))
    time.sleep(30)
    workshop.service.start()
    for name, execution in executions.items():
        expected = 1 if name.startswith("synchronous") else 3
        result = workshop.n8n.wait(execution)
        assert len(images(result)) == expected, (name, problems(result))
        assert len(workshop.jobs_of(execution)) == expected, f"{name} has created a job twice"
    return "away for 30 s in the middle of four workflows: every image arrives, no job twice"


def a_restart_of_n8n_loses_nothing(workshop: Workshop) -> str:
    slow = {"metadata": simulating(seconds=40)}
    polling = with_body(workshop.prepared("polling.json", prompts='["a", "b"]'), "Submit", **slow)
    # As it sleeps after its first minute.
    node_of(polling, "Wait for the jobs")["parameters"]["amount"] = 66
    webhooks = with_body(workshop.prepared("asynchronous.json", prompts='["a", "b"]'), "Submit", **slow)
    executions = [workshop.begin(polling), workshop.begin(webhooks)]
    for execution, jobs in zip(executions, (2, 1), strict=True):
        workshop.wait_for_jobs(execution, jobs)
        wait_until_asleep(workshop.n8n, execution)
    workshop.n8n.kill()
    workshop.n8n.start()
    workshop.n8n.sign_in()
    for execution in executions:
        result = workshop.n8n.wait(execution)
        assert len(images(result)) == 2, problems(result)
        assert len(workshop.jobs_of(execution)) == 2
    return "killed while both workflows for long jobs sleep: every image arrives"


def a_duplicated_node_gets_its_own_image(workshop: Workshop) -> str:
    workflow = workshop.prepared("synchronous.json")
    copy = deepcopy(node_of(workflow, "Generate the image")) | {"id": str(uuid4()), "name": "Generate the image1"}
    copy["position"] = [660, 360]
    workflow["nodes"].append(copy)
    workflow["connections"]["Request"]["main"][0].append({"node": copy["name"], "type": "main", "index": 0})
    result = workshop.run(workflow)
    ids = {node: result.items(node)[0]["json"]["headers"]["x-job-id"] for node in ("Generate the image", copy["name"])}
    assert len(set(ids.values())) == 2, ids
    return "two jobs"


def a_second_n8n_gets_its_own_images(workshop: Workshop) -> str:
    home = workshop.folder / "second"
    home.mkdir()
    # As careful as docs/n8n.md describes it.
    settings = {"N8N_SSRF_PROTECTION_ENABLED": "true", "N8N_SSRF_ALLOWED_HOSTNAMES": "localhost"}
    second = N8n(workshop.installation, home, **settings)
    second.start()
    try:
        first_credentials, workshop.credentials = workshop.credentials, workshop.sign_up(second)
        # The same file, the first execution of a new database: all numbers are those of the first n8n.
        second.command("import:workflow", f"--input={files()['synchronous.json']}")
        second.change("imagegenOneImage", workshop.prepared("synchronous.json"))
        result = second.wait(second.execute("imagegenOneImage"))
    finally:
        second.kill()
        workshop.credentials = first_credentials
    workshop.n8n.change("imagegenOneImage", workshop.prepared("synchronous.json"))
    again = workshop.n8n.wait(workshop.n8n.execute("imagegenOneImage"))
    ids = {images(run)[0]["json"]["job"] for run in (result, again)}
    assert len(ids) == 2, ids
    return "the same file in a fresh n8n, with `N8N_SSRF_PROTECTION_ENABLED` and the same key: another job"


def a_wrong_header_at_wait_only_takes_longer(workshop: Workshop) -> str:
    workflow = workshop.prepared("asynchronous.json", prompts='["a"]', webhooks="wrong")
    node_of(workflow, "Wait for the webhook")["parameters"] |= {"resumeAmount": 10, "resumeUnit": "seconds"}
    execution = workshop.begin(workflow)
    result = workshop.n8n.wait(execution)
    (job,) = workshop.jobs_of(execution)
    assert len(images(result)) == 1
    deliveries = workshop.service.job(job["id"])["webhook"]["deliveries"]
    assert deliveries[0]["attempts"] >= 1, deliveries
    return f"the image arrives after the limit; the job shows `last_status` {deliveries[0]['last_status']}"


def setting(workshop: Workshop, file: str, prompts: str = PROMPTS) -> Workflow:
    return workshop.prepared(file, base_url=workshop.recorder.url, prompts=prompts)


WORKFLOWS: dict[str, Check] = {
    "the files can be imported": the_files_can_be_imported,
    "one image now": one_prompt_becomes_one_image,
    "an image is changed": an_image_is_changed,
    "three prompts, one of them wrong": three_items_become_three_results,
    "many items": items_from_another_node_are_all_used,
    "a job longer than one call waits": a_long_job_is_waited_for,
    "a withheld image": a_withheld_image_fails_alone,
    "a failed job": a_failed_job_is_a_problem_in_one_line,
    "errors that cannot pass": what_cannot_pass_is_not_tried_again,
    "restart of the service": a_restart_of_the_service_loses_nothing,
    "restart of n8n": a_restart_of_n8n_loses_nothing,
    "a duplicated node": a_duplicated_node_gets_its_own_image,
    "a second n8n": a_second_n8n_gets_its_own_images,
    "a wrong header at *Wait*": a_wrong_header_at_wait_only_takes_longer,
}
