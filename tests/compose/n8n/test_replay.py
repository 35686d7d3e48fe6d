"""The workflows work with the service: it understands their requests, and they handle its responses."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests

from tests.api.clients import ALICE, KEYS
from tests.compose.n8n.replay import Execution, Network, Stopped
from tests.compose.n8n.workflows import FOLDER, Workflow
from tests.shared.webhooks.receiver import SECRET, Receiver, receiving
from tests.stack import Api, Stack

ADDRESSES = ("http://stable-diffusion:7860", "http://host.docker.internal:7860", "http://localhost:7860")
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def n8n() -> Iterator[Receiver]:
    with receiving() as n8n:
        yield n8n


@pytest.fixture(scope="module")
def stack(redis_url: str, n8n: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {
        "SD_BACKENDS": "null,sd",
        "SD_DEFAULT_BACKEND": "null",
        "SD_API_KEY": KEYS,
        "SD_WEBHOOK_ALLOW": n8n.origin,
        "SD_WEBHOOK_SECRET": SECRET,
        "SD_WEBHOOK_HEADER": "X-Webhook-Token: of-the-operator",
    }
    with Stack(redis_url, tmp_path_factory.mktemp("n8n"), **settings) as stack:
        stack.start_worker("null")
        stack.start_housekeeper()
        stack.start_api()
        yield stack


@pytest.fixture(scope="module")
def unserved(stack: Stack) -> Api:
    """An API whose jobs no worker runs."""
    return stack.start_api(SD_DEFAULT_BACKEND="sd", SD_SYNC_TIMEOUT_SECONDS="1")


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return iter(range(1000, 2000))


def execution(
    file: str,
    api: Api,
    n8n: Receiver,
    number: int,
    address: str = ADDRESSES[0],
    kind: type[Network] = Network,
    trusting: bool = False,
    **settings: Any,
) -> tuple[Execution, Network]:
    n8n.forget()
    network = kind(address, api.url, ALICE)
    return Execution(Workflow(FOLDER / file), network, n8n, number, trusting=trusting, **settings), network


@pytest.mark.parametrize("address", ADDRESSES)
def test_each_address_turns_a_prompt_into_an_image(
    stack: Stack, n8n: Receiver, numbers: Iterator[int], address: str
) -> None:
    run, network = execution("synchronous.json", stack.api, n8n, next(numbers), address)

    run.run()

    (item,) = run.runs["The image"][0]
    assert item.binary["data"].startswith(PNG)
    assert item.json["headers"]["x-job-id"]
    assert len(network.sent) == 1


def test_an_unfinished_job_stops_the_workflow_with_its_address(
    unserved: Api, n8n: Receiver, numbers: Iterator[int]
) -> None:
    run, _ = execution("synchronous.json", unserved, n8n, next(numbers))

    with pytest.raises(Stopped, match="The job continues at /api/jobs/"):
        run.run()


def test_a_refused_request_stops_the_workflow_with_the_reason(
    stack: Stack, n8n: Receiver, numbers: Iterator[int]
) -> None:
    run, _ = execution("synchronous.json", stack.api, n8n, next(numbers), prompt="")

    with pytest.raises(Stopped, match=r"422.*/prompt"):
        run.run()


def test_the_webhook_wakes_n8n_which_downloads_the_images(stack: Stack, n8n: Receiver, numbers: Iterator[int]) -> None:
    run, _ = execution("asynchronous.json", stack.api, n8n, next(numbers), prompt="a penguin")

    run.run()

    (item,) = run.runs["Download the image"][0]
    assert item.binary["data"].startswith(PNG)
    (arrival,) = n8n.arrivals
    assert arrival.headers["x-webhook-token"] == "of-the-operator"
    assert run.runs["Read the job"][0][0].json["request"]["prompt"] == "a penguin"


def test_a_lost_response_creates_no_second_job(stack: Stack, n8n: Receiver, numbers: Iterator[int]) -> None:
    number = next(numbers)
    run, network = execution("asynchronous.json", stack.api, n8n, number)
    network.responses_to_drop = 2

    run.run()

    jobs = stack.api.get(f"/api/jobs?label=n8n {number}", headers={"X-API-Key": ALICE}).json()["jobs"]
    assert len(jobs) == 1
    assert [request.method for request in network.sent] == ["POST", "POST", "POST", "GET", "GET"]


def test_a_cancelled_job_wakes_n8n_too(unserved: Api, n8n: Receiver, numbers: Iterator[int]) -> None:
    class Cancelling(Network):
        """Cancels every job as soon as it is accepted."""

        def send(self, method: str, url: str, headers: Mapping[str, str], body: object) -> requests.Response:
            response = super().send(method, url, headers, body)
            if method == "POST":
                unserved.http.delete(unserved.url + response.headers["Location"], headers={"X-API-Key": ALICE})
            return response

    run, _ = execution("asynchronous.json", unserved, n8n, next(numbers), kind=Cancelling)

    with pytest.raises(Stopped, match="The job is cancelled: null"):
        run.run()


def test_a_forged_webhook_ends_only_the_wait(unserved: Api, n8n: Receiver, numbers: Iterator[int]) -> None:
    class Forging(Network):
        """Sends n8n a forged success with a foreign image before the job has started."""

        def send(self, method: str, url: str, headers: Mapping[str, str], body: object) -> requests.Response:
            response = super().send(method, url, headers, body)
            if isinstance(body, dict):
                images = [{"url": "http://elsewhere.example.com/evil.png"}]
                message = {"type": "job.succeeded", "data": {**response.json(), "state": "succeeded", "images": images}}
                requests.post(body["webhook_url"], json=message, timeout=10)
            return response

    run, network = execution("asynchronous.json", unserved, n8n, next(numbers), kind=Forging, trusting=True)

    with pytest.raises(Stopped, match="The job is queued: null"):
        run.run()

    assert [request.method for request in network.sent] == ["POST", "GET"]


def test_a_prompt_that_fails_does_not_stop_the_others(stack: Stack, n8n: Receiver, numbers: Iterator[int]) -> None:
    prompts = ["a penguin", "", "a castle"]
    run, network = execution("batch.json", stack.api, n8n, next(numbers), prompts=prompts)

    run.run()

    first, second, third = run.runs["Results"][0]
    assert [first.json, third.json] == [{"prompt": "a penguin"}, {"prompt": "a castle"}]
    assert first.binary["data"].startswith(PNG)
    assert third.binary["data"].startswith(PNG)
    assert second.json["prompt"] == ""
    assert "422" in second.json["problem"]
    assert len({request.headers["Idempotency-Key"] for request in network.sent}) == len(prompts)
