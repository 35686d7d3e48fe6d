"""The operator's corner: managing models, and seeing the workers and the queue."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Route, expect

from tests.stack import Stack
from tests.studio.conftest import Open
from tests.studio.test_watching import LONG
from tests.support.polling import wait_until
from tests.worker.worker_records import worker_records


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, tmp_path_factory.mktemp("operated"), SD_BACKENDS="null") as stack:
        stack.start_worker("null")
        stack.start_api(SD_FLOWER_PORT="5556")
        yield stack


def test_an_operator_loads_keeps_and_unloads_a_model(stack: Stack, open_studio: Open) -> None:
    studio = open_studio(stack.api, "/#/service")
    model = studio.page.get_by_role("group", name="Manage null/red", exact=True)
    load, unload = (model.get_by_role("button", name=name, exact=True) for name in ("Load", "Unload"))
    keep = model.get_by_role("button", name="Keep null/red in memory")

    load.click()
    expect(unload).to_be_visible()
    keep.click()
    release = model.get_by_role("button", name="Do not keep null/red in memory")
    expect(release).to_have_attribute("aria-pressed", "true")
    assert stack.api.get("/api/models/null/red").json()["pinned"]

    release.click()
    expect(keep).to_be_visible()
    # A worker hears of it within a second.
    wait_until(lambda: not any(model.pinned for model in worker_records(stack)[0].models))
    unload.click()
    expect(load).to_be_visible()
    assert stack.api.get("/api/models/null/red").json()["state"] == "available"


def test_an_operator_sees_workers_the_queue_and_where_else_to_look(stack: Stack, open_studio: Open) -> None:
    held = [stack.api.post("/api/jobs", {"prompt": "held", **LONG}).json() for _ in range(3)]
    studio = open_studio(stack.api, "/health/live")
    memory = {"used_bytes": 3_000_000_000, "size_bytes": 8_000_000_000}

    def with_memory(route: Route) -> None:
        found = route.fetch().json()
        for backend in found["backends"]:
            backend["workers"] = [{**worker, "memory": memory} for worker in backend["workers"]]
        route.fulfill(json=found)

    known: list[Route] = []
    studio.page.route("**/api/backends", lambda route: known.append(route))
    studio.open("/#/service")
    service = studio.page.get_by_role("main", name="Service")
    expect(service.get_by_text("Loading…")).to_be_visible()
    expect(service.get_by_text("No worker is running")).to_have_count(0)
    studio.page.route("**/api/backends", with_memory)
    for route in known:
        route.continue_()

    expect(service.get_by_text("Everything works")).to_be_visible()
    expect(service.get_by_text(re.compile("^2 jobs"))).to_be_visible()
    expect(service.get_by_text("3.0 GB of 8.0 GB")).to_be_visible()
    for name, target in (("Flower", ":5556"), ("Metrics", "/metrics"), ("API", "/docs")):
        link = service.get_by_role("link", name=re.compile(f"^{name}"))
        expect(link).to_have_attribute("href", re.compile(f"{target}$"))
    for job in held:
        stack.api.delete(job["links"]["self"])


def test_the_studio_links_to_no_flower_where_none_runs(stack: Stack, open_studio: Open) -> None:
    service = open_studio(stack.start_api(), "/#/service").page.get_by_role("main", name="Service")

    expect(service.get_by_role("link", name=re.compile("^Metrics"))).to_be_visible()
    expect(service.get_by_role("link", name=re.compile("^Flower"))).to_have_count(0)
