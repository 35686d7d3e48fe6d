"""A deployment of several processes after jobs of every outcome."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.shared.webhooks.receiver import Receiver, answer, receiving
from tests.stack import Api, Stack
from tests.support.polling import wait_until

KEY = "the-key-of-prometheus-0123"
CALLER_KEY = "the-key-of-somebody-else-0123"
#: In prompts, labels and URLs: no metric, log or trace may contain it.
CANARY = "canary-5b1f7e"


class Scrape:
    """The parsed /metrics of one process."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self.samples: list[Sample] = [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The value of the only sample with these labels."""
        (value,) = [
            sample.value
            for sample in self.samples
            if sample.name == f"imagegen_{name}" and labels.items() <= sample.labels.items()
        ]
        return float(value)

    def shared_counts(self) -> set[str]:
        """All counters and histograms that are not of this process alone."""
        counted = (family.samples for family in self.families if family.type in ("counter", "histogram"))
        return {str(sample) for samples in counted for sample in samples if "process" not in sample.labels}


@dataclass
class Deployment:
    stack: Stack
    receiver: Receiver
    first_scrapes: tuple[Scrape, ...] = ()
    """Of each API, directly after the jobs of the fixture."""

    @property
    def apis(self) -> list[Api]:
        return self.stack.apis

    def scrape(self, api: Api | None = None) -> Scrape:
        response = (api or self.stack.api).get("/metrics", headers={"Authorization": f"Bearer {KEY}"})
        assert response.status_code == 200, response.text
        return Scrape(response.text)

    def job(self, number: int = 0, **fields: Any) -> dict[str, Any]:
        """Submits a job to the API with this number."""
        body = {"prompt": f"a {CANARY}", "label": CANARY, **fields}
        response = requests.post(
            f"{self.apis[number].url}/api/jobs", json=body, headers={"X-API-Key": CALLER_KEY}, timeout=30
        )
        assert response.status_code == 202, response.text
        job: dict[str, Any] = response.json()
        return job

    def cancel(self, job: dict[str, Any]) -> None:
        url = self.stack.api.url + job["links"]["self"]
        requests.delete(url, headers={"X-API-Key": CALLER_KEY}, timeout=10).raise_for_status()

    def ended_jobs(self, **labels: str) -> float:
        """How many jobs have ended."""
        return sum(
            sample.value
            for sample in self.scrape().samples
            if sample.name == "imagegen_jobs_total" and labels.items() <= sample.labels.items()
        )


def simulation(**effects: Any) -> dict[str, Any]:
    return {"num_inference_steps": 100, "metadata": {"simulate": effects}}


@pytest.fixture(scope="session")
def deployment(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two APIs, two workers and a housekeeper; seven jobs through either API, and their webhooks."""
    with receiving() as receiver:
        settings = {
            "SD_BACKENDS": "null",
            "SD_API_KEY": f"prometheus:{KEY}:metrics,somebody:{CALLER_KEY}",
            "SD_WEBHOOK_ALLOW": receiver.origin,
        }
        with Stack(redis_url, tmp_path_factory.mktemp("monitoring"), **settings) as stack:
            stack.start_housekeeper()
            for _ in range(2):
                stack.start_api()
                stack.start_worker("null")
            deployment = Deployment(stack, receiver)
            _run_jobs_of_every_outcome(deployment)
            deployment.first_scrapes = tuple(deployment.scrape(api) for api in deployment.apis)
            yield deployment


def _run_jobs_of_every_outcome(deployment: Deployment) -> None:
    for number in range(4):
        deployment.job(number % 2, num_images=2, webhook_url=deployment.receiver.url)
    deployment.job(1, **simulation(flag=1), num_images=2)
    cancelled = deployment.job(**simulation(seconds=30))
    deployment.cancel(cancelled)
    wait_until(lambda: deployment.scrape().value("webhook_attempts_total", outcome="delivered") == 4)
    deployment.receiver.behave = answer(410)
    deployment.job(**simulation(fail="out-of-memory"), webhook_url=deployment.receiver.url)
    wait_until(lambda: deployment.ended_jobs() == 7)
    wait_until(lambda: deployment.scrape().value("webhook_attempts_total", outcome="dead") > 0)
