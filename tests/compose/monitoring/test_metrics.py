"""The metrics of a deployment with several processes."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import requests

from api.native.metrics import _memory_metrics
from shared.jobs.types import Backend
from shared.workers.devices import DeviceMemory
from shared.workers.records import Fleet, WorkerRecord, WorkerState
from tests.compose.monitoring.conftest import CALLER_KEY, CANARY, KEY, Deployment, Scrape, simulation
from tests.compose.monitoring.prometheus import alerts, labels_in, metrics_in, queries
from tests.stack import Stack, free_port
from tests.support.polling import wait_until

#: Labels that Prometheus adds to each target.
TARGET_LABELS = {"job", "instance"}
DOCUMENTATION = Path(__file__).parents[3] / "docs/monitoring.md"


def test_every_process_reports_the_counts_of_the_whole_deployment(deployment: Deployment) -> None:
    first, second = deployment.first_scrapes

    assert first.shared_counts() == second.shared_counts()
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


def test_every_process_reports_its_own_requests_and_memory(deployment: Deployment) -> None:
    first, second = deployment.first_scrapes

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


def test_gauges_show_queued_and_running_jobs(deployment: Deployment) -> None:
    jobs = [deployment.job(**simulation(seconds=60)) for _ in range(3)]
    wait_until(lambda: deployment.scrape().value("jobs_running", backend="null") == 2)

    scrape = deployment.scrape()

    assert scrape.value("queue_jobs", backend="null") == 1
    assert scrape.value("queue_oldest_seconds", backend="null") > 0
    wait_until(lambda: deployment.scrape().value("workers", backend="null", state="busy") == 2)
    for job in jobs:
        deployment.cancel(job)
    wait_until(lambda: deployment.scrape().value("workers", backend="null", state="ready") == 2)
    assert deployment.scrape().value("queue_oldest_seconds", backend="null") == 0


def test_labels_contain_no_prompt_key_url_or_job(deployment: Deployment) -> None:
    job = deployment.job()
    requests.get(f"{deployment.stack.api.url}/{CANARY}?key={KEY}", timeout=10)
    requests.request("PROPFIND", f"{deployment.stack.api.url}/api/jobs", timeout=10)

    text = deployment.scrape().text

    for secret in (CANARY, KEY, CALLER_KEY, job["id"], "secret-of-the-caller", deployment.receiver.origin):
        assert secret not in text
    assert 'route="none"' in text
    assert 'method="other"' in text


def test_a_metrics_key_opens_only_metrics(deployment: Deployment) -> None:
    url = deployment.stack.api.url

    def status(path: str, key: str) -> int:
        return requests.get(url + path, auth=("any", key), timeout=10).status_code

    assert requests.get(f"{url}/metrics", timeout=10).status_code == 401
    assert (status("/metrics", KEY), status("/metrics", CALLER_KEY)) == (200, 403)
    assert {status(path, KEY) for path in ("/api/jobs", "/api/backends", "/health", "/info")} == {403}
    assert status("/health/live", KEY) == 200


def test_a_restart_creates_no_new_series(stack: Stack) -> None:
    def series() -> set[tuple[str, ...]]:
        process = stack.run([sys.executable, "-m", "api.main"], SD_BACKENDS="null", SD_PORT=str(port))
        process.wait_for("Uvicorn running on")
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        process.stop()
        return {(sample.name, *sorted(map(str, sample.labels.items()))) for sample in Scrape(text).samples}

    port = free_port()

    assert series() == series() != set()


def test_the_memory_of_workers_is_labelled_by_number() -> None:
    """Names may change with each start."""
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

    labels_before = labels(fleet("sd@a:1", "sd@a:2"))

    assert labels_before == labels(fleet("sd@a:3", "sd@b:4"))
    assert [sample["worker"] for sample in labels_before] == ["0", "1"] * 2


def test_without_redis_a_process_reports_its_own_metrics(stack: Stack) -> None:
    api = stack.start_api(SD_REDIS_URL="redis://127.0.0.1:1/0", SD_BACKENDS="null")

    response = api.get("/metrics")

    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "imagegen_redis_up{" in response.text
    assert "imagegen_http_requests_open{" in response.text
    assert "imagegen_jobs_total" not in response.text


def test_a_client_that_prefers_openmetrics_gets_it(deployment: Deployment) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3"
    response = deployment.stack.api.get("/metrics", headers={"Authorization": f"Bearer {KEY}", "Accept": accept})

    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_the_documentation_lists_exactly_the_metrics(deployment: Deployment) -> None:
    rows = [line.split("|")[1:5] for line in DOCUMENTATION.read_text().splitlines() if line.startswith("| `imagegen_")]
    documented = {name.strip(" `"): (kind.strip(), labels.strip(), text.strip()) for name, kind, labels, text in rows}

    metrics: dict[str, tuple[str, str, str]] = {}
    for family in deployment.scrape().families:
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        known = ", ".join(sorted(labels)) or documented[name][1]
        metrics[name] = (family.type, known, family.documentation)

    assert documented == metrics


def test_dashboard_and_alerts_use_only_existing_metrics_and_labels(deployment: Deployment) -> None:
    families = deployment.scrape().families
    existing = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    # These have no sample without a GPU or an account.
    existing |= {family.name: {"backend", "worker", "device"} for family in families if not family.samples}

    used = [(expression, legend) for _, expression, legend in queries()]
    for expression, legend in [*used, *((expression, "") for _, expression in alerts())]:
        metrics = metrics_in(expression)
        assert metrics <= set(existing), expression
        known = set().union(*(existing[metric] for metric in metrics)) | TARGET_LABELS
        assert labels_in(expression) | labels_in(f"by ({', '.join(_variables(legend))})") <= known, expression


def _variables(legend: str) -> list[str]:
    return [part.partition("}}")[0] for part in legend.split("{{")[1:]]
