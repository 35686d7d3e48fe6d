"""Two APIs and two workers on two hosts act as one service."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.redis.store import connect
from tests.api.images import encoded, scene
from tests.compose.scale.cluster import ANN, BOB, BURST, PER_SECOND, PUBLIC_URL, Cluster, submit
from tests.compose.scale.proxies import caddy, nginx
from tests.faults.processes import kill_process_tree
from tests.stack import Api


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def first(cluster: Cluster) -> Api:
    return cluster.apis[0]


@pytest.fixture
def second(cluster: Cluster) -> Api:
    return cluster.apis[1]


def test_a_job_of_one_api_is_followed_and_read_through_the_other(first: Api, second: Api) -> None:
    job = submit(first, 0.5, num_images=2)

    events = second.all_events(job["id"])
    again = first.all_events(job["id"], last=events[1].id)

    assert [event.type for event in events][-1] == "done"
    assert "progress" in {event.type for event in events}
    assert [event.id for event in again] == [event.id for event in events[2:]]
    images = [api.get(f"{job['links']['self']}/images/1").content for api in (first, second)]
    assert images[0] == images[1]
    assert images[0].startswith(b"\x89PNG")
    assert second.get("/api/jobs").json()["jobs"][0]["id"] == job["id"]


def test_synchronous_requests_use_any_free_worker(cluster: Cluster, first: Api, second: Api) -> None:
    def make(number: int) -> str:
        body = {"prompt": "x", "metadata": {"simulate": {"seconds": 1}}}
        answer = (first, second)[number % 2].post("/api/txt2img", body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(6) as callers:
        made = list(callers.map(make, range(6)))

    assert {cluster.worker_of(job_id) for job_id in made} == {"null@a", "null@b"}


def test_an_uploaded_image_reaches_the_worker_of_the_other_host(first: Api) -> None:
    busy = [submit(first, 0.5) for _ in range(2)]
    answers = [
        first.http.post(
            f"{first.url}/api/img2img", files={"image": ("a", encoded(scene()))}, data={"prompt": "x"}, timeout=30
        )
        for _ in busy
    ]

    assert {answer.status_code for answer in answers} == {200}


def test_a_job_is_cancelled_through_the_other_api(first: Api, second: Api) -> None:
    job = submit(first, 30)
    with first.events(job["id"]) as events:
        next(event for event in events if event.type == "progress")
        assert second.delete(job["links"]["self"]).status_code == 200
        (done,) = [event for event in events if event.type == "done"]

    assert done.data["state"] == "cancelled"


def test_one_idempotency_key_at_two_apis_creates_one_job(first: Api, second: Api) -> None:
    def ask(number: int) -> str:
        api = (first, second)[number % 2]
        headers = {**first.http.headers, "Idempotency-Key": "once"}
        answer = requests.post(f"{api.url}/api/txt2img", json={"prompt": "x"}, headers=headers, timeout=30)
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as callers:
        assert len(set(callers.map(ask, range(8)))) == 1


def test_two_apis_share_the_rate_limit_of_a_key(first: Api, second: Api) -> None:
    def ask(number: int) -> requests.Response:
        url = (first, second)[number % 2].url
        return requests.get(f"{url}/api/jobs?limit=1", headers={"X-API-Key": BOB}, timeout=30)

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(ask, range(4 * BURST)))

    took = max(answer.elapsed.total_seconds() for answer in answers) * len(answers) / 8
    counted = Counter(answer.status_code for answer in answers)
    assert counted[429] > 0
    assert counted[200] <= BURST + PER_SECOND * took
    assert first.get("/api/jobs?limit=1").status_code == 200


def test_two_housekeepers_send_each_webhook_once(cluster: Cluster, first: Api, second: Api) -> None:
    cluster.receiver.forget()
    webhook: dict[str, Any] = {"webhook_url": cluster.receiver.url, "webhook_inline_images": True}
    jobs = [submit((first, second)[number % 2], **webhook)["id"] for number in range(12)]

    heard = [cluster.receiver.next() for _ in jobs]

    for arrival in heard:
        arrival.verify()
        # Out of the bucket: the housekeepers have no disk in common with the workers.
        assert arrival.message["data"]["images"][0]["b64_json"]
    assert {arrival.message["data"]["id"] for arrival in heard} == set(jobs)
    first.wait_until_done(submit(first)["id"])
    assert len(cluster.receiver.arrivals) == len(jobs)


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_a_proxy_balances_both_apis(
    cluster: Cluster, first: Api, tmp_path: Path, proxy: Callable[..., AbstractContextManager[str]]
) -> None:
    with proxy(tmp_path, [host.url for host in cluster.hosts]) as url:
        front = Api(first.process, url)
        front.http.headers.update({"X-API-Key": ANN, "Host": "images.example.com"})

        made = front.post("/api/txt2img", {"prompt": "x"})
        job = submit(front, 3.0)
        with front.events(job["id"]) as events:
            progress = next(event for event in events if event.type == "progress")
            state = front.get(job["links"]["self"]).json()["state"]
            rest = list(events)
        answers = [front.get(f"/api/jobs/{job['id']}/images/0") for _ in range(8)]

    assert made.status_code == 200, made.text
    assert made.json()["images"][0]["url"].startswith(PUBLIC_URL)
    # It came while the job ran, and was not collected on the way.
    assert (progress.data["step"] < 50, state, rest[-1].type) == (True, "running", "done")
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


def test_a_lost_host_loses_no_job(cluster: Cluster, first: Api, second: Api) -> None:
    jobs = [submit(first, 1.5) for _ in range(2)]
    for job in jobs:
        with second.events(job["id"]) as events:
            next(event for event in events if event.type == "progress")

    kill_process_tree(cluster.workers[0])
    first.process.kill()
    # As if its worker had been silent for longer than a lease.
    (lost,) = (job["id"] for job in jobs if cluster.worker_of(job["id"]) == "null@a")
    connect(cluster.settings["SD_REDIS_URL"]).zadd(f"{cluster.prefix}leases", {lost: 1})

    ended = [second.wait_until_done(job["id"]) for job in jobs]

    assert [job["state"] for job in ended] == ["succeeded"] * 2
    assert {cluster.worker_of(job["id"]) for job in jobs} == {"null@b"}
    cluster.restart_api(0)
    assert cluster.apis[0].get(f"{jobs[0]['links']['self']}/images/0").status_code == 200
