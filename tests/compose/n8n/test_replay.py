"""What the workflows ask is what the service understands, and what it answers is what they go on with."""

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
def patient(stack: Stack) -> Api:
    """An API whose jobs nobody makes."""
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
def test_a_prompt_becomes_a_image_by_each_address(
    stack: Stack, n8n: Receiver, numbers: Iterator[int], address: str
) -> None:
    run, network = execution("synchronous.json", stack.api, n8n, next(numbers), address)

    run.run()

    (item,) = run.runs["The image"][0]
    assert item.binary["data"].startswith(PNG)
    assert item.json["headers"]["x-job-id"]
    assert len(network.sent) == 1


def test_what_takes_longer_than_a_call_may_wait_is_said_with_its_address(
    patient: Api, n8n: Receiver, numbers: Iterator[int]
) -> None:
    run, _ = execution("synchronous.json", patient, n8n, next(numbers))

    with pytest.raises(Stopped, match="The job goes on at /api/jobs/"):
        run.run()


def test_a_refusal_stops_with_what_is_wrong(stack: Stack, n8n: Receiver, numbers: Iterator[int]) -> None:
    run, _ = execution("synchronous.json", stack.api, n8n, next(numbers), prompt="")

    with pytest.raises(Stopped, match=r"422.*/prompt"):
        run.run()


def test_the_webhook_wakes_n8n_and_the_images_are_fetched(stack: Stack, n8n: Receiver, numbers: Iterator[int]) -> None:
    run, _ = execution("asynchronous.json", stack.api, n8n, next(numbers), prompt="a penguin")

    run.run()

    (item,) = run.runs["Fetch the image"][0]
    assert item.binary["data"].startswith(PNG)
    (arrival,) = n8n.arrivals
    assert arrival.headers["x-webhook-token"] == "of-the-operator"
    assert run.runs["Look at the job"][0][0].json["request"]["prompt"] == "a penguin"


def test_a_lost_answer_makes_no_second_job(stack: Stack, n8n: Receiver, numbers: Iterator[int]) -> None:
    number = next(numbers)
    run, network = execution("asynchronous.json", stack.api, n8n, number)
    network.lose = 2

    run.run()

    asked = {"X-API-Key": ALICE}
    made = stack.api.get(f"/api/jobs?label=n8n {number}", headers=asked).json()["jobs"]
    assert len(made) == 1
    assert [request.method for request in network.sent] == ["POST", "POST", "POST", "GET", "GET"]


def test_a_job_that_has_not_succeeded_wakes_n8n_too(patient: Api, n8n: Receiver, numbers: Iterator[int]) -> None:
    class Cancelling(Network):
        """Somebody cancels every job as soon as it is accepted."""

        def send(self, method: str, url: str, headers: Mapping[str, str], body: object) -> requests.Response:
            answered = super().send(method, url, headers, body)
            if method == "POST":
                patient.http.delete(patient.url + answered.headers["Location"], headers={"X-API-Key": ALICE})
            return answered

    run, _ = execution("asynchronous.json", patient, n8n, next(numbers), kind=Cancelling)

    with pytest.raises(Stopped, match="The job is cancelled: null"):
        run.run()


def test_a_call_that_is_false_ends_nothing_but_the_wait(patient: Api, n8n: Receiver, numbers: Iterator[int]) -> None:
    class Lying(Network):
        """Somebody tells n8n that the job has succeeded, with an image of their own, though it has not begun."""

        def send(self, method: str, url: str, headers: Mapping[str, str], body: object) -> requests.Response:
            answered = super().send(method, url, headers, body)
            if isinstance(body, dict):
                images = [{"url": "http://elsewhere.example.com/evil.png"}]
                told = {"type": "job.succeeded", "data": {**answered.json(), "state": "succeeded", "images": images}}
                requests.post(body["webhook_url"], json=told, timeout=10)
            return answered

    run, network = execution("asynchronous.json", patient, n8n, next(numbers), kind=Lying, trusting=True)

    with pytest.raises(Stopped, match="The job is queued: null"):
        run.run()

    assert [request.method for request in network.sent] == ["POST", "GET"]


def test_a_prompt_that_fails_does_not_stop_the_others(stack: Stack, n8n: Receiver, numbers: Iterator[int]) -> None:
    prompts = ["a penguin", "", "a castle"]
    run, network = execution("batch.json", stack.api, n8n, next(numbers), prompts=prompts)

    run.run()

    first, second, third = run.runs["All of them"][0]
    assert [first.json, third.json] == [{"prompt": "a penguin"}, {"prompt": "a castle"}]
    assert first.binary["data"].startswith(PNG)
    assert third.binary["data"].startswith(PNG)
    assert second.json["prompt"] == ""
    assert "422" in second.json["problem"]
    assert len({request.headers["Idempotency-Key"] for request in network.sent}) == len(prompts)
