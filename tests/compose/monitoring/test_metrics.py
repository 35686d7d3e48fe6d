"""/metrics of a deployment with several processes."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import requests

from api.native.metrics import _memory_metrics
from shared.jobs.types import Backend
from shared.workers.devices import DeviceMemory
from shared.workers.records import Fleet, WorkerRecord, WorkerState
from tests.compose.monitoring.conftest import CANARY, KEY, MAKER, Deployment, Scrape, simulated
from tests.polling import wait_until
from tests.stack import Stack, free_port

DOCUMENTATION = Path(__file__).parents[3] / "docs/monitoring.md"


def test_what_the_deployment_did_is_told_whole_by_each_of_its_processes(deployment: Deployment) -> None:
    first, second = deployment.begun

    assert first.counted() == second.counted()
    assert first.value("jobs_accepted_total") == 7
    assert first.value("jobs_total", outcome="succeeded") == 5
    assert first.value("jobs_total", outcome="cancelled") == 1
    assert first.value("jobs_total", outcome="failed", code="out-of-memory") == 1
    assert first.value("images_total", withheld="false") == 9
    assert first.value("images_total", withheld="true") == 1
    for name in ("wait", "run", "step", "encode"):
        assert first.value(f"job_{name}_seconds_bucket", le="+Inf") >= 5
        assert first.value(f"job_{name}_seconds_sum") > 0
    assert first.value("webhook_attempts_total", outcome="delivered") == 4
    assert first.value("webhook_attempts_total", outcome="dead") == first.value("webhooks", state="dead") == 1


def test_what_a_process_does_itself_is_told_as_its_own(deployment: Deployment) -> None:
    first, second = deployment.begun

    jobs = {"method": "POST", "route": "/api/jobs", "status": "202"}
    assert first.value("http_requests_total", **jobs) == 4
    assert second.value("http_requests_total", **jobs) == 3
    assert {sample.labels["process"] for sample in first.samples if "process" in sample.labels}.isdisjoint(
        sample.labels["process"] for sample in second.samples if "process" in sample.labels
    )
    assert first.value("http_request_seconds_bucket", method="POST", route="/api/jobs", le="+Inf") == 4
    assert first.value("http_requests_open") == 1, "the scrape itself"
    assert first.value("outputs_free_bytes") > 0
    assert first.value("api_process_resident_memory_bytes") > 10**7


def test_what_waits_and_what_runs_is_told_as_it_is_now(deployment: Deployment) -> None:
    jobs = [deployment.job(**simulated(seconds=60)) for _ in range(3)]
    wait_until(lambda: deployment.scrape().value("jobs_running", backend="null") == 2)

    scrape = deployment.scrape()

    assert scrape.value("queue_jobs", backend="null") == 1
    assert scrape.value("queue_oldest_seconds", backend="null") > 0
    wait_until(lambda: deployment.scrape().value("workers", backend="null", state="busy") == 2)
    for job in jobs:
        deployment.cancel(job)
    wait_until(lambda: deployment.scrape().value("workers", backend="null", state="ready") == 2)
    assert deployment.scrape().value("queue_oldest_seconds", backend="null") == 0


def test_labels_hold_no_prompt_no_key_no_address_and_no_job(deployment: Deployment) -> None:
    job = deployment.job()
    requests.get(f"{deployment.stack.api.url}/{CANARY}?key={KEY}", timeout=10)
    requests.request("PROPFIND", f"{deployment.stack.api.url}/api/jobs", timeout=10)

    text = deployment.scrape().text

    for secret in (CANARY, KEY, MAKER, job["id"], "secret-of-the-caller", deployment.receiver.origin):
        assert secret not in text
    assert 'route="none"' in text
    assert 'method="other"' in text


def test_metrics_take_a_key_that_opens_nothing_else(deployment: Deployment) -> None:
    url = deployment.stack.api.url

    def status(path: str, key: str) -> int:
        return requests.get(url + path, auth=("any", key), timeout=10).status_code

    assert requests.get(f"{url}/metrics", timeout=10).status_code == 401
    assert (status("/metrics", KEY), status("/metrics", MAKER)) == (200, 403)
    assert {status(path, KEY) for path in ("/api/jobs", "/api/backends", "/health", "/info")} == {403}
    assert status("/health/live", KEY) == 200


def test_a_restart_begins_no_new_series(stack: Stack) -> None:
    def series() -> set[tuple[str, ...]]:
        with_own_port = stack.run([sys.executable, "-m", "api.main"], SD_BACKENDS="null", SD_PORT=str(port))
        with_own_port.wait_for("Uvicorn running on")
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        with_own_port.stop()
        return {(sample.name, *sorted(map(str, sample.labels.items()))) for sample in Scrape(text).samples}

    port = free_port()

    assert series() == series() != set()


def test_the_memory_of_workers_is_told_by_number() -> None:
    """Nothing of a name is in it, which may be another one after each start."""
    memory = DeviceMemory(used_bytes=1, size_bytes=2)

    def fleet(*names: str) -> Fleet:
        workers = [
            WorkerRecord(
                id=name,
                name=name,
                backend=Backend.SD,
                state=WorkerState.READY,
                model="m",
                device="cuda:0",
                memory=memory,
                started_at=datetime.now(UTC),
            )
            for name in names
        ]
        return Fleet(tuple(workers), {}, dict.fromkeys(Backend, 0), {backend: {} for backend in Backend}, 0)

    def labels(fleet: Fleet) -> list[dict[str, str]]:
        return [sample.labels for metric in _memory_metrics([Backend.SD], fleet) for sample in metric.samples]

    told = labels(fleet("sd@a:1", "sd@a:2"))

    assert told == labels(fleet("sd@a:3", "sd@b:4"))
    assert [each["worker"] for each in told] == ["0", "1"] * 2


def test_a_process_without_its_redis_tells_that_and_what_it_knows_itself(stack: Stack) -> None:
    api = stack.start_api(SD_REDIS_URL="redis://127.0.0.1:1/0", SD_BACKENDS="null")

    answer = api.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "imagegen_redis_up{" in answer.text
    assert "imagegen_http_requests_open{" in answer.text
    assert "imagegen_jobs_total" not in answer.text


def test_a_client_that_prefers_openmetrics_gets_it(deployment: Deployment) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3"
    answer = deployment.stack.api.get("/metrics", headers={"Authorization": f"Bearer {KEY}", "Accept": accept})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_the_documentation_has_every_metric_and_no_other(deployment: Deployment) -> None:
    rows = [line.split("|")[1:5] for line in DOCUMENTATION.read_text().splitlines() if line.startswith("| `imagegen_")]
    documented = {name.strip(" `"): (kind.strip(), labels.strip(), told.strip()) for name, kind, labels, told in rows}

    told: dict[str, tuple[str, str, str]] = {}
    for family in deployment.scrape().families:
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        known = ", ".join(sorted(labels)) or documented[name][1]
        told[name] = (family.type, known, family.documentation)

    assert documented == told
