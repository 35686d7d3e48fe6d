"""A job belongs to the key that made it: to every other key it is one that never was."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.api.clients import ALICE, ALICE_READ_ONLY, BOB, KEYS, PRIORITY, UNKNOWN_ID, Client
from tests.api.problem import assert_problem
from tests.stack import Stack

ROUTES = [
    ("GET", "/api/jobs/{id}"),
    ("HEAD", "/api/jobs/{id}/images/0"),
    ("GET", "/api/jobs/{id}/images/0"),
    ("GET", "/api/jobs/{id}/images/9"),
    ("GET", "/api/jobs/{id}/images/x"),
    ("GET", "/api/jobs/{id}/events"),
    ("DELETE", "/api/jobs/{id}"),
    ("PUT", "/api/jobs/{id}/pin"),
    ("DELETE", "/api/jobs/{id}/pin"),
]


def seen(answer: requests.Response) -> tuple[int, bytes, dict[str, str]]:
    """All that can be told of an answer, but when it came."""
    return answer.status_code, answer.content, {k: v for k, v in answer.headers.items() if k.lower() != "date"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("state", ["succeeded", "queued"])
def test_anothers_job_answers_exactly_as_an_unknown_one(
    alice: Client, bob: Client, method: str, path: str, state: str
) -> None:
    job = alice.generate() if state == "succeeded" else alice.submit(metadata={"simulate": {"seconds": 0.2}})

    foreign, unknown = (bob.request(method, path.format(id=job_id)) for job_id in (job["id"], UNKNOWN_ID))

    assert foreign.status_code in (404, 422)
    assert seen(foreign) == seen(unknown)
    assert alice.get(job["links"]["self"]).json()["state"] != "cancelled"


def test_an_unknown_job_takes_no_less_time_than_anothers(alice: Client, bob: Client) -> None:
    job = alice.generate()
    spent: dict[str, list[float]] = {job["id"]: [], UNKNOWN_ID: []}

    for _ in range(150):
        for job_id, times in spent.items():
            begin = time.perf_counter()
            bob.get(f"/api/jobs/{job_id}")
            times.append(time.perf_counter() - begin)

    foreign, unknown = (statistics.median(times) for times in spent.values())
    assert foreign == pytest.approx(unknown, rel=0.25)


def test_lists_hold_ones_own_jobs_alone(alice: Client, bob: Client) -> None:
    label = "lists hold ones own"
    hers, his = alice.generate(label=label), bob.generate(label=label)

    for filters in ({}, {"label": label}, {"state": "succeeded"}, {"backend": "null"}):
        assert hers["id"] in alice.job_ids(**filters)
        assert his["id"] not in alice.job_ids(**filters)
        assert bob.job_ids(**filters)[0] == his["id"]


def test_a_cursor_names_no_job_of_anothers(alice: Client, bob: Client) -> None:
    own = alice.generate(label="cursors")
    bob.generate(label="cursors")

    page = alice.get("/api/jobs", params={"label": "cursors", "limit": 1}).json()

    assert page["cursor"] == own["id"]


def test_an_admin_sees_and_cancels_everybodys_jobs(alice: Client, bob: Client, admin: Client) -> None:
    jobs = [
        alice.generate(label="admin"),
        bob.submit(label="admin", num_inference_steps=100, metadata={"simulate": {"seconds": 5}}),
    ]

    assert {job["id"] for job in jobs} == set(admin.job_ids(label="admin"))
    assert [admin.get(job["links"]["self"]).json()["owner"] for job in jobs] == ["alice", "bob"]
    assert admin.request("DELETE", jobs[1]["links"]["self"]).status_code == 200


def test_one_idempotency_key_of_two_owners_makes_two_jobs(alice: Client, bob: Client) -> None:
    headers = {"Idempotency-Key": "the-same"}

    answers = [
        client.request("POST", "/api/jobs", json={"prompt": prompt}, headers=headers)
        for client, prompt in ((alice, "x"), (bob, "y"), (alice, "x"))
    ]

    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert answers[0].json()["id"] == answers[2].json()["id"] != answers[1].json()["id"]


def test_a_worker_tells_the_job_that_it_runs_to_those_alone_who_may_see_it(
    keyed: Stack, alice: Client, bob: Client, admin: Client
) -> None:
    job = alice.submit(num_inference_steps=100, metadata={"simulate": {"seconds": 30}})

    def told(client: Client) -> list[str | None]:
        (null,) = [one for one in client.get("/api/backends").json()["backends"] if one["name"] == "null"]
        return [worker["current_job"] for worker in null["workers"]]

    while job["id"] not in told(alice):
        assert alice.get(job["links"]["self"]).json()["state"] in ("queued", "running")
    others, all_ = told(bob), told(admin)
    alice.request("DELETE", job["links"]["self"])

    assert (others, job["id"] in all_) == ([None], True)


def test_only_keys_of_a_scope_for_it_may_go_before_others(keyed: Stack, alice: Client, admin: Client) -> None:
    hurried = Client(keyed.api, PRIORITY)
    high = {"prompt": "x", "priority": "high"}

    refused = alice.request("POST", "/api/jobs", json=high)

    assert_problem(refused, 403, "forbidden")
    assert "name:key:priority" in refused.json()["detail"]
    assert [client.generate(**high)["request"]["priority"] for client in (hurried, admin)] == ["high", "high"]
    assert alice.generate(priority="low")["state"] == "succeeded"
    assert not hurried.job_ids(label="nobody's")
    assert hurried.get(alice.submit()["links"]["self"]).status_code == 404


def test_an_idempotency_key_goes_with_its_owner_wherever_that_one_is(stack: Stack) -> None:
    settings = {"SD_BACKENDS": "null", "SD_TRUSTED_PROXIES": "127.0.0.1"}
    api = stack.start_api(**settings)

    def ask(address: str, **headers: str) -> str:
        answer = api.post("/api/jobs", {"prompt": "x"}, headers={"X-Forwarded-For": address, **headers})
        return str(answer.json()["id"])

    key = {"Idempotency-Key": "moves-along"}

    assert ask("192.0.2.1", **key) == ask("192.0.2.2", **key)
    assert ask("192.0.2.1") != ask("192.0.2.1")


def test_webhooks_are_seen_and_sent_again_by_the_owner_of_their_job_alone(
    keyed: Stack, alice: Client, bob: Client, admin: Client
) -> None:
    job = alice.generate(webhook_url="https://hooks.example.com/?token=alices")
    waiting = {"state": "pending"}

    (webhook,) = alice.get("/api/webhooks", params=waiting).json()["webhooks"]
    again = f"/api/webhooks/{webhook['id']}/redeliver"
    foreign, unknown = (bob.request("POST", path) for path in (again, again.replace(job["id"], UNKNOWN_ID)))

    assert webhook["job_id"] == job["id"]
    assert bob.get("/api/webhooks", params=waiting).json() == {"webhooks": [], "cursor": None}
    assert_problem(foreign, 404, "webhook-not-found")
    assert seen(foreign) == seen(unknown)
    assert [one["id"] for one in admin.get("/api/webhooks", params=waiting).json()["webhooks"]] == [webhook["id"]]
    assert [client.request("POST", again).status_code for client in (alice, admin)] == [202, 202]
    assert Client(keyed.api, ALICE_READ_ONLY).request("POST", again).status_code == 403


def test_an_owner_has_only_so_many_jobs_at_a_time(keyed: Stack) -> None:
    carols = f"carols{BOB}"
    api = keyed.start_api(SD_MAX_JOBS_PER_KEY="3", SD_API_KEY=f"{KEYS},carol:{carols}")
    alice, carol = Client(api, ALICE), Client(api, carols)
    slow = {"num_inference_steps": 100, "metadata": {"simulate": {"seconds": 10}}}
    with ThreadPoolExecutor(8) as many:
        answers = list(many.map(lambda _: carol.request("POST", "/api/jobs", json={"prompt": "x", **slow}), range(8)))

    accepted = [answer.json()["links"] for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code != 202]
    other = alice.submit()
    for links in accepted:
        carol.request("DELETE", links["self"])
        carol.get(links["events"])

    assert len(accepted) == 3
    for answer in refused:
        assert_problem(answer, 429, "queue-full")
    assert alice.get(other["links"]["events"]).text.count("event: done") == 1
    assert carol.generate()["state"] == "succeeded"


def test_jobs_of_before_there_were_keys_are_the_admins(redis_url: str, stack: Stack) -> None:
    job = Client(stack.start_api(SD_BACKENDS="null"), None).submit()
    api = stack.start_api(SD_BACKENDS="null", SD_API_KEY=f"alice:{ALICE},ops:{ALICE}x:admin")

    assert Client(api, ALICE).get(job["links"]["self"]).status_code == 404
    assert Client(api, ALICE).job_ids() == []
    assert Client(api, f"{ALICE}x").job_ids() == [job["id"]]
