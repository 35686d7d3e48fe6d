"""The workflows work with the service: it understands their requests, and they handle its responses."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.api.clients import ALICE, KEYS
from tests.compose.n8n.javascript import JavaScript, javascript
from tests.compose.n8n.network import Network
from tests.compose.n8n.replay import Execution, Item, Stopped
from tests.compose.n8n.workflows import FOLDER, Workflow
from tests.shared.webhooks.receiver import SECRET, Receiver, receiving
from tests.stack import Api, Stack

ADDRESSES = ("http://stable-diffusion:7860", "http://host.docker.internal:7860", "http://localhost:7860")
MANY = ("batch.json", "polling.json", "asynchronous.json")
PNG = b"\x89PNG"
#: What a real n8n has sent and received, by `make n8n`.
RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())
THREE = {"prompts": ["a red heart", "", "a penguin"]}
WITHHELD = {"prompts": ["two images"], "body": {"metadata": {"simulate": {"flag": 1}}, "num_images": 2}}
#: How the recorded executions are repeated.
REPEATED: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "synchronous-refused": {"prompt": ""},
    "synchronous-long": {"body": {"metadata": {"simulate": {"seconds": 1.5}}}},
    "edit": {},
    "batch": THREE,
    "polling": THREE,
    "asynchronous": THREE,
    "polling-withheld": WITHHELD,
    "asynchronous-withheld": WITHHELD,
}


@pytest.fixture(scope="module")
def n8n() -> Iterator[Receiver]:
    with receiving() as n8n:
        yield n8n


@pytest.fixture(scope="module")
def script() -> Iterator[JavaScript]:
    with javascript() as script:
        yield script


@pytest.fixture(scope="module")
def stack(redis_url: str, n8n: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {
        "SD_BACKENDS": "null,sd",
        "SD_DEFAULT_BACKEND": "null",
        "SD_API_KEY": KEYS,
        "SD_WEBHOOK_ALLOW": n8n.origin,
        "SD_WEBHOOK_SECRET": SECRET,
        "SD_WEBHOOK_HEADER": "X-Webhook-Token: of-the-operator",
        "SD_SYNC_TIMEOUT_SECONDS": "1",
    }
    with Stack(redis_url, tmp_path_factory.mktemp("n8n"), **settings) as stack:
        stack.start_worker("null")
        stack.start_housekeeper()
        stack.start_api()
        yield stack


@pytest.fixture(scope="module")
def unserved(stack: Stack) -> Api:
    """An API whose jobs no worker runs."""
    return stack.start_api(SD_DEFAULT_BACKEND="sd")


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return iter(range(1000, 2000))


class Run:
    """Starts executions of the workflows beside one API."""

    def __init__(self, script: JavaScript, n8n: Receiver, numbers: Iterator[int]) -> None:
        self._script, self._n8n, self._numbers = script, n8n, numbers
        self.number = 0

    def __call__(
        self, file: str, api: Api, address: str = ADDRESSES[0], kind: type[Network] = Network, **options: Any
    ) -> tuple[Execution, Network]:
        self._n8n.forget()
        self.number, network = next(self._numbers), kind(address, api.url, ALICE)
        return Execution(Workflow(FOLDER / file), self._script, network, self._n8n, self.number, **options), network


@pytest.fixture
def start(script: JavaScript, n8n: Receiver, numbers: Iterator[int]) -> Run:
    return Run(script, n8n, numbers)


def images(run: Execution) -> list[Item]:
    return [item for node in ("The image", "Results") for item in run.items(node) if item.binary]


@pytest.mark.parametrize("address", ADDRESSES)
def test_each_address_turns_a_prompt_into_an_image(stack: Stack, start: Run, address: str) -> None:
    run, network = start("synchronous.json", stack.api, address)

    run.run()

    (item,) = images(run)
    assert item.binary["data"].startswith(PNG)
    assert item.json["job"]
    assert len(network.sent) == 1


@pytest.mark.parametrize("file", ["synchronous.json", "edit.json"])
def test_a_job_that_outlasts_the_call_is_waited_for(stack: Stack, start: Run, file: str) -> None:
    seconds = '{"simulate": {"seconds": 1.5}}'
    body = {"metadata": seconds if file == "edit.json" else {"simulate": {"seconds": 1.5}}}
    run, network = start(file, stack.api, body=body)

    run.run()

    (item,) = images(run)
    assert item.binary["data"].startswith(PNG)
    codes = [exchange.code for exchange in network.exchanges]
    assert "not-finished" in codes
    submitted = [request for request in network.sent if str(request.url).endswith(("txt2img", "img2img"))]
    assert len({request.headers["Idempotency-Key"] for request in submitted}) == (2 if file == "edit.json" else 1)


def test_a_refused_request_stops_the_workflow_with_the_reason(stack: Stack, start: Run) -> None:
    run, network = start("synchronous.json", stack.api, prompt="")

    with pytest.raises(Stopped, match=r"The image was not generated: prompt must not be empty\."):
        run.run()

    assert len(network.sent) == 1


@pytest.mark.parametrize("file", MANY)
def test_a_prompt_that_fails_does_not_stop_the_others(stack: Stack, start: Run, file: str) -> None:
    run, network = start(file, stack.api, prompts=["a penguin", "", "a castle"])

    run.run()

    assert {item.json["prompt"] for item in images(run)} == {"a penguin", "a castle"}
    assert all(item.binary["data"].startswith(PNG) for item in images(run))
    (failed,) = [item for node in ("Failed", "Results") for item in run.items(node)[-3:] if not item.binary][:1]
    assert failed.json == {"prompt": "", "problem": "prompt must not be empty."}
    keys = {request.headers["Idempotency-Key"] for request in network.sent if request.method == "POST"}
    assert len(keys) == 3


@pytest.mark.parametrize("file", MANY)
def test_a_lost_response_creates_no_second_job(stack: Stack, start: Run, file: str) -> None:
    run, network = start(file, stack.api, prompts=["a penguin"])
    network.responses_to_drop = 2

    run.run()

    assert [request.method for request in network.sent][:3] == ["POST"] * 3
    assert len(images(run)) == 1
    jobs = stack.api.get("/api/jobs?limit=100", headers={"X-API-Key": ALICE}).json()["jobs"]
    assert len([job for job in jobs if (job["label"] or "").startswith(f"n8n {start.number} ")]) == 1


@pytest.mark.parametrize("file", ["polling.json", "asynchronous.json"])
def test_a_withheld_image_does_not_fail_the_others(stack: Stack, start: Run, file: str) -> None:
    body = {"num_images": 2, "metadata": {"simulate": {"flag": 1}}}
    run, _ = start(file, stack.api, prompts=["two images"], body=body)

    run.run()

    assert len(images(run)) == 1
    assert [item.json["problem"] for item in run.items("Failed")] == ["The safety checker withheld the image."]


@pytest.mark.parametrize("file", MANY)
def test_a_failed_job_is_a_problem_in_one_line(stack: Stack, start: Run, file: str) -> None:
    run, network = start(file, stack.api, prompts=["x"], body={"metadata": {"simulate": {"fail": "out-of-memory"}}})

    run.run()

    (failed,) = run.items("Failed")
    assert failed.json["problem"] == "The device has too little memory for this size."
    assert len([request for request in network.sent if request.method == "POST"]) == 1


def test_the_webhook_wakes_n8n(stack: Stack, n8n: Receiver, start: Run) -> None:
    run, _ = start("asynchronous.json", stack.api, prompts=["a penguin"])

    run.run()

    assert len(images(run)) == 1
    (arrival,) = n8n.arrivals
    assert arrival.headers["x-webhook-token"] == "of-the-operator"


class Cancelling(Network):
    """Cancels every job as soon as it is accepted."""

    def send(self, method: str, url: str, *request: Any) -> requests.Response:
        response = super().send(method, url, *request)
        if method == "POST":
            headers = {"X-API-Key": ALICE}
            requests.delete(self.api_url + response.headers["Location"], headers=headers, timeout=10)
        return response


def test_a_cancelled_job_wakes_n8n_too(unserved: Api, start: Run) -> None:
    run, _ = start("asynchronous.json", unserved, kind=Cancelling, prompts=["a penguin"])

    run.run()

    assert [item.json["problem"] for item in run.items("Failed")] == ["The job was cancelled."]


class Forging(Network):
    """Sends n8n a forged success with a foreign image before the job has started, and cancels the job at the second."""

    forged = 0

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Any, files: Any) -> requests.Response:
        response = super().send(method, url, headers, body, files)
        if method == "POST":
            self.webhook_url, self.job = body["webhook_url"], response.json()
        self.forged += 1
        if self.forged == 1:
            images = [{"url": "http://elsewhere.example.com/evil.png"}]
            data = {**self.job, "state": "succeeded", "images": images}
            requests.post(self.webhook_url, json={"type": "job.succeeded", "data": data}, timeout=10)
        if self.forged == 2:
            path = self.job["links"]["self"]
            requests.delete(self.api_url + path, headers={"X-API-Key": ALICE}, timeout=10)
        return response


def test_after_a_forged_webhook_the_workflow_goes_back_to_waiting(unserved: Api, start: Run) -> None:
    run, network = start("asynchronous.json", unserved, kind=Forging, prompts=["a penguin"], trusting=True)

    run.run()

    assert [request.method for request in network.sent] == ["POST", "GET", "GET"]
    assert [item.json["state"] for item in run.items("Ended")] == ["cancelled"]


def test_the_jobs_of_an_execution_are_cancelled(unserved: Api, start: Run) -> None:
    def labelled(number: int) -> str:
        body = {"prompt": "x", "label": f"n8n {number} 0123456789ab"}
        return str(unserved.post("/api/jobs", body, headers={"X-API-Key": ALICE}).json()["id"])

    mine, other = labelled(77), labelled(778)
    run, _ = start("cancel.json", unserved, execution_id="77")

    run.run()

    states = [unserved.get(f"/api/jobs/{job}", headers={"X-API-Key": ALICE}).json()["state"] for job in (mine, other)]
    assert states == ["cancelled", "queued"]


@pytest.mark.parametrize("name", sorted(RECORDED.keys() - {"cancel"}))
def test_the_replay_sends_and_receives_what_a_real_n8n_has_recorded(stack: Stack, start: Run, name: str) -> None:
    options = REPEATED[name]
    run, network = start(f"{name.partition('-')[0]}.json", stack.api, **options)

    try:
        run.run()
    except Stopped:
        assert name == "synchronous-refused"

    # Simulated jobs are as slow as their caller is patient. How often a job was looked at is a matter of time.
    recorded = {json.dumps(entry, sort_keys=True).replace('"seconds": 6', '"seconds": 1.5') for entry in RECORDED[name]}
    assert {json.dumps(entry.as_json(), sort_keys=True) for entry in network.exchanges} == recorded
