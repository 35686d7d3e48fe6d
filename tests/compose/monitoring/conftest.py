"""A deployment of several processes that has done something of everything."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.polling import wait_until
from tests.shared.webhooks.receiver import Receiver, answer, receiving
from tests.stack import Api, Stack

KEY = "the-key-of-prometheus-0123"
MAKER = "the-key-of-somebody-else-0123"
#: In prompts, labels and addresses: nothing that tells of the deployment may hold it.
CANARY = "canary-5b1f7e"


class Scrape:
    """What /metrics of one process told."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self.samples: list[Sample] = [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Of the one sample that has these labels."""
        (found,) = [
            sample.value
            for sample in self.samples
            if sample.name == f"imagegen_{name}" and labels.items() <= sample.labels.items()
        ]
        return float(found)

    def counted(self) -> set[str]:
        """All that has been counted, but by this process alone."""
        counted = (family.samples for family in self.families if family.type in ("counter", "histogram"))
        return {str(sample) for samples in counted for sample in samples if "process" not in sample.labels}


@dataclass
class Deployment:
    stack: Stack
    receiver: Receiver
    begun: tuple[Scrape, ...] = ()
    """Of each API, once it had done what the fixture says and nothing else."""

    @property
    def apis(self) -> list[Api]:
        return self.stack.apis

    def scrape(self, api: Api | None = None) -> Scrape:
        answer = (api or self.stack.api).get("/metrics", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200, answer.text
        return Scrape(answer.text)

    def job(self, number: int = 0, **fields: Any) -> dict[str, Any]:
        """Submitted to the API with this number."""
        body = {"prompt": f"a {CANARY}", "label": CANARY, **fields}
        made = requests.post(f"{self.apis[number].url}/api/jobs", json=body, headers={"X-API-Key": MAKER}, timeout=30)
        assert made.status_code == 202, made.text
        job: dict[str, Any] = made.json()
        return job

    def cancel(self, job: dict[str, Any]) -> None:
        url = self.stack.api.url + job["links"]["self"]
        requests.delete(url, headers={"X-API-Key": MAKER}, timeout=10).raise_for_status()

    def ended(self, **labels: str) -> float:
        """How many jobs have."""
        return sum(
            sample.value
            for sample in self.scrape().samples
            if sample.name == "imagegen_jobs_total" and labels.items() <= sample.labels.items()
        )


def simulated(**simulation: Any) -> dict[str, Any]:
    return {"num_inference_steps": 100, "metadata": {"simulate": simulation}}


@pytest.fixture(scope="session")
def deployment(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two APIs, two workers and a housekeeper; seven jobs through either API, and their webhooks."""
    with receiving() as receiver:
        settings = {
            "SD_BACKENDS": "null",
            "SD_API_KEY": f"prometheus:{KEY}:metrics,somebody:{MAKER}",
            "SD_WEBHOOK_ALLOW": receiver.origin,
        }
        with Stack(redis_url, tmp_path_factory.mktemp("monitoring"), **settings) as stack:
            stack.start_housekeeper()
            for _ in range(2):
                stack.start_api()
                stack.start_worker("null")
            deployment = Deployment(stack, receiver)
            _something_of_everything(deployment)
            deployment.begun = tuple(deployment.scrape(api) for api in deployment.apis)
            yield deployment


def _something_of_everything(deployment: Deployment) -> None:
    for number in range(4):
        deployment.job(number % 2, num_images=2, webhook_url=deployment.receiver.url)
    deployment.job(1, **simulated(flag=1), num_images=2)
    cancelled = deployment.job(**simulated(seconds=30))
    deployment.cancel(cancelled)
    wait_until(lambda: deployment.scrape().value("webhook_attempts_total", outcome="delivered") == 4)
    deployment.receiver.behave = answer(410)
    deployment.job(**simulated(fail="out-of-memory"), webhook_url=deployment.receiver.url)
    wait_until(lambda: deployment.ended() == 7)
    wait_until(lambda: deployment.scrape().value("webhook_attempts_total", outcome="dead"))
