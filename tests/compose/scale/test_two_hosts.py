"""Two APIs and two workers on two hosts are one service, whichever of them is asked."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

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
def here(cluster: Cluster) -> Api:
    return cluster.apis[0]


@pytest.fixture
def there(cluster: Cluster) -> Api:
    return cluster.apis[1]


def test_a_job_of_one_api_is_followed_and_had_from_the_other(here: Api, there: Api) -> None:
    job = submit(here, 0.5, num_images=2)

    events = there.all_events(job["id"])
    again = here.all_events(job["id"], last=events[1].id)

    assert [event.type for event in events][-1] == "done"
    assert "progress" in {event.type for event in events}
    assert [event.id for event in again] == [event.id for event in events[2:]]
    images = [api.get(f"{job['links']['self']}/images/1").content for api in (here, there)]
    assert images[0] == images[1]
    assert images[0].startswith(b"\x89PNG")
    assert there.get("/api/jobs").json()["jobs"][0]["id"] == job["id"]


def test_a_caller_who_waits_is_served_by_whichever_worker_is_free(cluster: Cluster, here: Api, there: Api) -> None:
    def make(number: int) -> str:
        body = {"prompt": "x", "metadata": {"simulate": {"seconds": 0.4}}}
        answer = (here, there)[number % 2].post("/api/txt2img", body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(6) as callers:
        made = list(callers.map(make, range(6)))

    assert {cluster.worker_of(job_id) for job_id in made} == {"null@a", "null@b"}


def test_a_image_that_comes_to_one_host_is_worked_on_by_the_other(here: Api) -> None:
    busy = [submit(here, 0.5) for _ in range(2)]
    answers = [
        here.http.post(
            f"{here.url}/api/img2img", files={"image": ("a", encoded(scene()))}, data={"prompt": "x"}, timeout=30
        )
        for _ in busy
    ]

    assert {answer.status_code for answer in answers} == {200}


def test_a_job_is_cancelled_through_the_other_api(here: Api, there: Api) -> None:
    job = submit(here, 30)
    with here.events(job["id"]) as events:
        next(event for event in events if event.type == "progress")
        assert there.delete(job["links"]["self"]).status_code == 200
        (done,) = [event for event in events if event.type == "done"]

    assert done.data["state"] == "cancelled"


def test_one_idempotency_key_at_two_apis_makes_one_job(here: Api, there: Api) -> None:
    def ask(number: int) -> str:
        api = (here, there)[number % 2]
        headers = {**here.http.headers, "Idempotency-Key": "once"}
        answer = requests.post(f"{api.url}/api/txt2img", json={"prompt": "x"}, headers=headers, timeout=30)
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as callers:
        assert len(set(callers.map(ask, range(8)))) == 1


def test_two_apis_count_one_callers_requests_together(here: Api, there: Api) -> None:
    def ask(number: int) -> requests.Response:
        url = (here, there)[number % 2].url
        return requests.get(f"{url}/api/jobs?limit=1", headers={"X-API-Key": BOB}, timeout=30)

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(ask, range(2 * BURST)))

    took = max(answer.elapsed.total_seconds() for answer in answers) * len(answers) / 8
    counted = Counter(answer.status_code for answer in answers)
    assert counted[429] > 0
    assert counted[200] <= BURST + PER_SECOND * took
    assert here.get("/api/jobs?limit=1").status_code == 200


def test_two_housekeepers_send_each_webhook_once(cluster: Cluster, here: Api, there: Api) -> None:
    cluster.receiver.forget()
    webhook = {"webhook_url": cluster.receiver.url, "webhook_inline_images": True}
    jobs = [submit((here, there)[number % 2], **webhook)["id"] for number in range(12)]

    heard = [cluster.receiver.next() for _ in jobs]

    for arrival in heard:
        arrival.verify()
        # Out of the bucket: the housekeepers have no disk in common with the workers.
        assert arrival.message["data"]["images"][0]["b64_json"]
    assert {arrival.message["data"]["id"] for arrival in heard} == set(jobs)
    here.wait_until_done(submit(here)["id"])
    assert len(cluster.receiver.arrivals) == len(jobs)


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_a_proxy_makes_both_one_address(
    cluster: Cluster, here: Api, tmp_path: Path, proxy: Callable[..., AbstractContextManager[str]]
) -> None:
    with proxy(tmp_path, [host.url for host in cluster.hosts]) as url:
        front = Api(here.process, url)
        front.http.headers.update({"X-API-Key": ANN, "Host": "images.example.com"})

        made = front.post("/api/txt2img", {"prompt": "x"})
        job = submit(front, 1.0)
        with front.events(job["id"]) as events:
            first = next(event for event in events if event.type == "progress")
            state = front.get(job["links"]["self"]).json()["state"]
            rest = list(events)
        answers = [front.get(f"/api/jobs/{job['id']}/images/0") for _ in range(8)]

    assert made.status_code == 200, made.text
    assert made.json()["images"][0]["url"].startswith(PUBLIC_URL)
    # It came while the job ran, and was not collected on the way.
    assert (first.data["step"] < 50, state, rest[-1].type) == (True, "running", "done")
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


def test_a_host_that_is_lost_takes_no_job_with_it(cluster: Cluster, here: Api, there: Api) -> None:
    jobs = [submit(here, 1.5) for _ in range(2)]
    for job in jobs:
        with there.events(job["id"]) as events:
            next(event for event in events if event.type == "progress")

    kill_process_tree(cluster.workers[0])
    here.process.kill()
    # As if its worker had been silent for longer than a lease.
    (lost,) = (job["id"] for job in jobs if cluster.worker_of(job["id"]) == "null@a")
    connect(cluster.settings["SD_REDIS_URL"]).zadd(f"{cluster.prefix}leases", {lost: 1})

    ended = [there.wait_until_done(job["id"]) for job in jobs]

    assert [job["state"] for job in ended] == ["succeeded"] * 2
    assert {cluster.worker_of(job["id"]) for job in jobs} == {"null@b"}
    cluster.restart_api(0)
    assert cluster.apis[0].get(f"{jobs[0]['links']['self']}/images/0").status_code == 200
