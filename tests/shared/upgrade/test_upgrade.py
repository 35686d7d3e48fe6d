"""This version lists, follows, finishes and delivers the jobs of the version before, and reads its settings."""

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.redis.store import connect
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load, setting_warnings
from tests.shared.upgrade.installation import FOLDER, Installation
from tests.shared.upgrade.record import ALICE, BOB, TINY
from tests.shared.webhooks.receiver import Receiver, receiving
from tests.stack import Api, Event, Stack

QUEUED = ["other", "first", "second", "low"]


class Upgraded:
    """The restored installation with an API of this version; `finish` starts its worker and its housekeeper."""

    def __init__(self, stack: Stack, installation: Installation, receiver: Receiver) -> None:
        self.stack = stack
        self.jobs = installation.jobs
        self.receiver = receiver
        self.listed = {name: self.read(name) for name in self.jobs}

    def finish(self) -> None:
        self.stack.start_worker("null", ready=False)
        self.stack.start_housekeeper()
        for name in (*QUEUED, "running"):
            self.client(name).wait_until_done(self.jobs[name])

    def client(self, name: str) -> Api:
        """The API as the owner of a job sees it."""
        api = Api(self.stack.api.process, self.stack.api.url)
        api.http.headers["X-API-Key"] = BOB if name in ("failed", "dead", "other") else ALICE
        return api

    def read(self, name: str) -> dict[str, Any]:
        job: dict[str, Any] = self.client(name).get(f"/api/jobs/{self.jobs[name]}").json()
        return job

    def follow(self, name: str) -> list[Event]:
        return self.client(name).all_events(self.jobs[name])


@pytest.fixture(scope="module")
def upgraded(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    with receiving() as receiver:
        installation = Installation.read(receiver.origin)
        # Its jobs get older than any retention.
        settings = {**installation.settings, "SD_JOB_RETENTION_DAYS": "0"}
        with Stack(redis_url, tmp_path_factory.mktemp("upgraded"), **settings) as stack:
            installation.restore_files(stack.outputs)
            installation.restore_keys(connect(redis_url), stack.prefix)
            stack.start_api()
            yield Upgraded(stack, installation, receiver)


@pytest.fixture(scope="module")
def finished(upgraded: Upgraded) -> Upgraded:
    upgraded.finish()
    return upgraded


def test_every_job_is_read_in_its_state(upgraded: Upgraded) -> None:
    assert {name: job["state"] for name, job in upgraded.listed.items()} == {
        **dict.fromkeys(("done", "reused", "edited", "dead", "pending"), "succeeded"),
        **dict.fromkeys(QUEUED, "queued"),
        "failed": "failed",
        "running": "running",
        "cancelled": "cancelled",
    }
    assert [upgraded.listed[name]["queue_position"] for name in QUEUED] == [0, 1, 2, 3]
    assert upgraded.listed["failed"]["error"]["code"] == "out-of-memory"
    assert [name for name, job in upgraded.listed.items() if job["pinned"]] == ["done"]
    assert upgraded.listed["reused"]["reused_from"] == upgraded.jobs["done"]


def test_jobs_are_listed_by_owner_and_label(upgraded: Upgraded) -> None:
    lists = [
        upgraded.client(name).get("/api/jobs", params={"label": "kept"} if name == "done" else {}).json()["jobs"]
        for name in ("done", "other")
    ]

    found = [[job["id"] for job in jobs] for jobs in lists]
    assert found == [
        [upgraded.jobs[name] for name in names] for names in (("first", "done"), ("other", "dead", "failed"))
    ]


def test_images_and_events_are_served(upgraded: Upgraded) -> None:
    image = upgraded.listed["edited"]["images"][0]

    assert hashlib.sha256(requests.get(image["url"], timeout=10).content).hexdigest() == image["sha256"]
    assert [event.type for event in upgraded.follow("edited")] == ["state", "state", "progress", "done"]


def test_a_repeated_request_gets_the_job_of_its_idempotency_key(upgraded: Upgraded) -> None:
    again = {"prompt": "x", **TINY, "seed": 99}

    answer = upgraded.client("edited").post("/api/jobs", again, headers={"Idempotency-Key": "order-1"})

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-mismatch")


def test_the_same_request_gets_the_same_job_although_requests_have_new_fields(upgraded: Upgraded) -> None:
    """The job of an Idempotency-Key from before, for the request from before."""
    source = next(iter(upgraded.stack.find(f"{upgraded.jobs['done']}-0.png"))).read_bytes()
    again = {"prompt": "x", **TINY, "seed": 2, "output_format": "webp", "image": base64.b64encode(source).decode()}

    answer = upgraded.client("edited").post("/api/jobs", again, headers={"Idempotency-Key": "order-1"})

    assert (answer.status_code, answer.json().get("id")) == (202, upgraded.jobs["edited"]), answer.text


def test_jobs_from_before_run_on_the_default_model(finished: Upgraded) -> None:
    jobs = [finished.read(name) for name in QUEUED]

    assert {(job["request"].get("model"), job["model"]) for job in jobs} == {(None, "null")}


def test_queued_jobs_start_in_order_and_the_one_of_a_lost_worker_is_run_again(finished: Upgraded) -> None:
    jobs = {name: finished.read(name) for name in (*QUEUED, "running")}

    assert {job["state"] for job in jobs.values()} == {"succeeded"}
    starts = [jobs[name]["started_at"] for name in QUEUED]
    assert starts == sorted(starts)
    assert jobs["running"]["attempt"] == 2


def test_pending_webhooks_are_delivered_and_dead_ones_can_be_sent_again(finished: Upgraded) -> None:
    expected = {"pending": {"succeeded"}, "running": {"started", "succeeded"}, "other": {"succeeded"}}
    missing = {(finished.jobs[name], event) for name, events in expected.items() for event in events}

    while missing:
        arrival = finished.receiver.next()
        arrival.verify()
        missing.discard((arrival.message["data"]["id"], arrival.type))

    bob = finished.client("dead")
    (dead,) = bob.get("/api/webhooks").json()["webhooks"]
    assert dead["job_id"] == finished.jobs["dead"]
    assert bob.post(f"/api/webhooks/{dead['id']}/redeliver", {}).status_code == 202


def test_counters_go_on(finished: Upgraded) -> None:
    counts = connect(finished.stack.settings["SD_REDIS_URL"]).hgetall(f"{finished.stack.prefix}counts")

    assert int(counts["jobs|null|succeeded|"]) >= 10


def test_every_setting_of_the_version_before_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(FOLDER / "settings.env", tmp_path / ".env")
    monkeypatch.chdir(tmp_path)
    expected = json.loads((FOLDER / "settings.json").read_text())

    loaded = load(LauncherSettings)

    assert not [sentence for sentence in setting_warnings(loaded) if "is not a setting" in sentence]
    settings = loaded.model_dump(mode="json")
    assert {name: settings[name] for name in expected} == expected
