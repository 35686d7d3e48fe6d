"""The operator's corner: models are loaded, kept in memory and unloaded from the page."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.stack import Stack
from tests.studio.conftest import Open
from tests.support.polling import wait_until
from tests.worker.worker_records import worker_records


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, tmp_path_factory.mktemp("operated"), SD_BACKENDS="null") as stack:
        stack.start_worker("null")
        stack.start_api()
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
