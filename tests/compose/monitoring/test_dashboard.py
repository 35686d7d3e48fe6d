"""The dashboard and the alerts, against what a deployment tells."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import yaml

from shared.jobs.types import Backend
from shared.redis.store import Store, connect
from shared.workers.devices import DeviceMemory
from shared.workers.records import WorkerRecord, Workers, WorkerState
from tests.compose.monitoring.conftest import KEY, Deployment, simulated
from tests.compose.monitoring.prometheus import (
    BINARY,
    FOLDER,
    Prometheus,
    alerts,
    dashboard,
    labels_in,
    metrics_in,
    prometheus,
    queries,
)
from tests.polling import wait_until

real = pytest.mark.skipif(BINARY is None, reason="needs Prometheus (Debian: apt install prometheus)")
#: What Prometheus says of each target itself.
OWN = {"job", "instance"}


@pytest.fixture(scope="module")
def scraped(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, after it has seen jobs come and go, one of them in vain."""
    targets = [api.url.removeprefix("http://") for api in deployment.apis]
    with prometheus(tmp_path_factory.mktemp("prometheus"), targets, KEY) as server, _played_worker(deployment):
        wait_until(lambda: len(server.query("imagegen_redis_up == 1")) == 2)
        before = deployment.ended()
        deployment.job(1)
        deployment.job(**simulated(fail="out-of-memory"))
        wait_until(lambda: server.query(f"sum(max by (backend, outcome, code) (imagegen_jobs_total)) == {before + 2}"))
        wait_until(lambda: server.query("imagegen_provider_credits"))
        yield server


@contextmanager
def _played_worker(deployment: Deployment) -> Iterator[None]:
    """One with a GPU and an account; it need not beat to live through the tests."""
    record = WorkerRecord(
        id="w",
        name="flux-api@played",
        backend=Backend.FLUX_API,
        state=WorkerState.READY,
        model="null",
        device="cuda:0",
        memory=DeviceMemory(used_bytes=1, size_bytes=2),
        credits=12.5,
        started_at=datetime.now(UTC),
    )
    store, workers = Store(connect(deployment.stack.settings["SD_REDIS_URL"])), Workers(deployment.stack.prefix)
    beat = workers.heartbeat(record)
    store.run(replace(beat, args=[*beat.args[:-1], 600_000]))
    try:
        yield
    finally:
        store.run(workers.unregister(record.name))
        store.client.close()


@real
def test_every_query_of_the_dashboard_is_answered(scraped: Prometheus) -> None:
    unanswered = [(title, query) for title, query, _ in queries() if not scraped.query(query)]

    assert not unanswered


@real
def test_the_choice_of_backends_is_those_that_there_are(scraped: Prometheus) -> None:
    (variable,) = dashboard()["templating"]["list"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]

    assert {"flux-api", "null"} <= set(scraped.ask(f"label/{label}/values", **{"match[]": metric}))
    assert variable["name"] == label == "backend"


@real
def test_a_job_that_every_process_tells_of_is_one_job(scraped: Prometheus, deployment: Deployment) -> None:
    total = "sum(max by (backend, outcome, code) (imagegen_jobs_total))"

    assert float(scraped.query(total)[0]["value"][1]) == deployment.ended()
    assert len(scraped.query("imagegen_queue_jobs")) == 2 * len(scraped.query("max by (backend) (imagegen_queue_jobs)"))


@real
def test_every_alert_is_watched_and_is_silent_while_all_is_well(scraped: Prometheus) -> None:
    (group,) = scraped.ask("rules")["groups"]

    assert {rule["name"]: rule["state"] for rule in group["rules"]} == {name: "inactive" for name, _ in alerts()}
    for _, expression in alerts():
        assert not scraped.query(expression)


def test_every_name_in_dashboard_and_alerts_is_one_that_is_told(deployment: Deployment) -> None:
    families = deployment.scrape().families
    told = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    # These have no sample without a GPU or an account.
    told |= {family.name: {"backend", "worker", "device"} for family in families if not family.samples}

    asked = [(expression, legend) for _, expression, legend in queries()]
    for expression, legend in [*asked, *((expression, "") for _, expression in alerts())]:
        metrics = metrics_in(expression)
        assert metrics <= set(told), expression
        known = set().union(*(told[metric] for metric in metrics)) | OWN
        assert labels_in(expression) | labels_in(f"by ({', '.join(_variables(legend))})") <= known, expression


def _variables(legend: str) -> list[str]:
    return [part.partition("}}")[0] for part in legend.split("{{")[1:]]


def test_the_dashboard_finds_its_source_and_no_two_panels_are_one() -> None:
    sources = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    panels = dashboard()["panels"]

    assert {panel["datasource"]["uid"] for panel in panels if "datasource" in panel} == {sources[0]["uid"]}
    assert len({panel["id"] for panel in panels}) == len(panels)
