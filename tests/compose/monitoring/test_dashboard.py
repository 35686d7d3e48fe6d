"""The dashboard and the alerts, tested with the metrics of a deployment."""

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
from tests.compose.monitoring.conftest import KEY, Deployment, simulation
from tests.compose.monitoring.prometheus import (
    BINARY,
    FOLDER,
    Prometheus,
    alerts,
    dashboard,
    prometheus,
    queries,
)
from tests.support.polling import wait_until

real = pytest.mark.skipif(BINARY is None, reason="needs Prometheus (Debian: apt install prometheus)")


@pytest.fixture(scope="module")
def scraped(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, after it has scraped one succeeded and one failed job."""
    targets = [api.url.removeprefix("http://") for api in deployment.apis]
    with prometheus(tmp_path_factory.mktemp("prometheus"), targets, KEY) as server, _fake_worker(deployment):
        wait_until(lambda: len(server.query("imagegen_redis_up == 1")) == 2)
        before = deployment.ended_jobs()
        deployment.job(1)
        deployment.job(**simulation(fail="out-of-memory"))
        wait_until(lambda: server.query(f"sum(max by (backend, outcome, code) (imagegen_jobs_total)) == {before + 2}"))
        wait_until(lambda: server.query("imagegen_provider_credits"))
        yield server


@contextmanager
def _fake_worker(deployment: Deployment) -> Iterator[None]:
    """A worker record with a GPU and an account that lives through the tests without heartbeats."""
    record = WorkerRecord(
        id="w",
        name="flux-api@fake",
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
def test_every_query_of_the_dashboard_has_a_result(scraped: Prometheus) -> None:
    empty = [(title, query) for title, query, _ in queries() if not scraped.query(query)]

    assert not empty


@real
def test_the_dashboard_offers_the_existing_backends(scraped: Prometheus) -> None:
    (variable,) = dashboard()["templating"]["list"]
    query = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert query
    metric, label = query.groups()

    assert {"flux-api", "null"} <= set(scraped.get(f"label/{label}/values", **{"match[]": metric}))
    assert variable["name"] == label == "backend"


@real
def test_a_job_that_several_processes_report_counts_once(scraped: Prometheus, deployment: Deployment) -> None:
    total = "sum(max by (backend, outcome, code) (imagegen_jobs_total))"

    assert float(scraped.query(total)[0]["value"][1]) == deployment.ended_jobs()
    assert len(scraped.query("imagegen_queue_jobs")) == 2 * len(scraped.query("max by (backend) (imagegen_queue_jobs)"))


@real
def test_every_alert_is_loaded_and_inactive_while_all_is_well(scraped: Prometheus) -> None:
    (group,) = scraped.get("rules")["groups"]

    assert {rule["name"]: rule["state"] for rule in group["rules"]} == {name: "inactive" for name, _ in alerts()}
    for _, expression in alerts():
        assert not scraped.query(expression)


def test_the_dashboard_has_its_data_source_and_unique_panels() -> None:
    sources = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    panels = dashboard()["panels"]

    assert {panel["datasource"]["uid"] for panel in panels if "datasource" in panel} == {sources[0]["uid"]}
    assert len({panel["id"] for panel in panels}) == len(panels)
