"""A job belongs to the key that created it; for every other key it does not exist."""

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


def observed(answer: requests.Response) -> tuple[int, bytes, dict[str, str]]:
    """Everything that a client can observe of an answer, except its date."""
    return answer.status_code, answer.content, {k: v for k, v in answer.headers.items() if k.lower() != "date"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("state", ["succeeded", "queued"])
def test_a_foreign_job_answers_exactly_like_an_unknown_one(
    alice: Client, bob: Client, method: str, path: str, state: str
) -> None:
    job = alice.generate() if state == "succeeded" else alice.submit(metadata={"simulate": {"seconds": 0.2}})

    foreign, unknown = (bob.request(method, path.format(id=job_id)) for job_id in (job["id"], UNKNOWN_ID))

    assert foreign.status_code in (404, 422)
    assert observed(foreign) == observed(unknown)
    assert alice.get(job["links"]["self"]).json()["state"] != "cancelled"


def test_an_unknown_job_takes_as_long_as_a_foreign_one(alice: Client, bob: Client) -> None:
    job = alice.generate()

    # Other processes disturb some rounds; a difference that callers could measure would be in all.
    ratios: list[float] = []
    while not ratios or abs(ratios[-1] - 1) > 0.25:
        assert len(ratios) < 10, ratios
        foreign, unknown = median_seconds(bob, job["id"], UNKNOWN_ID)
        ratios.append(foreign / unknown)


def median_seconds(client: Client, *job_ids: str) -> list[float]:
    """How long reading each job takes, in turns."""
    spent: dict[str, list[float]] = {job_id: [] for job_id in job_ids}
    for _ in range(60):
        for job_id, times in spent.items():
            begin = time.perf_counter()
            client.get(f"/api/jobs/{job_id}")
            times.append(time.perf_counter() - begin)
    return [statistics.median(times) for times in spent.values()]


def test_lists_contain_only_own_jobs(alice: Client, bob: Client) -> None:
    label = "lists hold ones own"
    alices, bobs = alice.generate(label=label), bob.generate(label=label)

    for filters in ({}, {"label": label}, {"state": "succeeded"}, {"backend": "null"}):
        assert alices["id"] in alice.job_ids(**filters)
        assert bobs["id"] not in alice.job_ids(**filters)
        assert bob.job_ids(**filters)[0] == bobs["id"]


def test_a_cursor_reveals_no_foreign_job(alice: Client, bob: Client) -> None:
    job = alice.generate(label="cursors")
    bob.generate(label="cursors")

    page = alice.get("/api/jobs", params={"label": "cursors", "limit": 1}).json()

    assert page["cursor"] == job["id"]


def test_an_admin_can_see_and_cancel_all_jobs(alice: Client, bob: Client, admin: Client) -> None:
    jobs = [
        alice.generate(label="admin"),
        bob.submit(label="admin", num_inference_steps=100, metadata={"simulate": {"seconds": 5}}),
    ]

    assert {job["id"] for job in jobs} == set(admin.job_ids(label="admin"))
    assert [admin.get(job["links"]["self"]).json()["owner"] for job in jobs] == ["alice", "bob"]
    assert admin.request("DELETE", jobs[1]["links"]["self"]).status_code == 200


@pytest.mark.parametrize("headers", [{"Idempotency-Key": "the-same"}, {"x-stainless-retry-count": "1"}])
def test_the_same_request_of_two_owners_creates_two_jobs(alice: Client, bob: Client, headers: dict[str, str]) -> None:
    answers = [
        client.request("POST", "/api/jobs", json={"prompt": "x", "label": "the same"}, headers=headers)
        for client in (alice, bob, alice)
    ]

    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert answers[0].json()["id"] == answers[2].json()["id"] != answers[1].json()["id"]


def test_the_current_job_of_a_worker_is_hidden_from_others(
    keyed: Stack, alice: Client, bob: Client, admin: Client
) -> None:
    job = alice.submit(num_inference_steps=100, metadata={"simulate": {"seconds": 30}})

    def current_jobs(client: Client) -> list[str | None]:
        (null,) = [one for one in client.get("/api/backends").json()["backends"] if one["name"] == "null"]
        return [worker["current_job"] for worker in null["workers"]]

    while job["id"] not in current_jobs(alice):
        assert alice.get(job["links"]["self"]).json()["state"] in ("queued", "running")
    bobs, admins = current_jobs(bob), current_jobs(admin)
    alice.request("DELETE", job["links"]["self"])

    assert (bobs, job["id"] in admins) == ([None], True)


def test_high_priority_needs_a_scope(keyed: Stack, alice: Client, admin: Client) -> None:
    priority = Client(keyed.api, PRIORITY)
    high = {"prompt": "x", "priority": "high"}

    refused = alice.request("POST", "/api/jobs", json=high)

    assert_problem(refused, 403, "forbidden")
    assert "name:key:priority" in refused.json()["detail"]
    assert [client.generate(**high)["request"]["priority"] for client in (priority, admin)] == ["high", "high"]
    assert alice.generate(priority="low")["state"] == "succeeded"
    assert not priority.job_ids(label="nobody's")
    assert priority.get(alice.submit()["links"]["self"]).status_code == 404


def test_an_idempotency_key_works_from_any_address(stack: Stack) -> None:
    settings = {"SD_BACKENDS": "null", "SD_TRUSTED_PROXIES": "127.0.0.1"}
    api = stack.start_api(**settings)

    def ask(address: str, **headers: str) -> str:
        answer = api.post("/api/jobs", {"prompt": "x"}, headers={"X-Forwarded-For": address, **headers})
        return str(answer.json()["id"])

    key = {"Idempotency-Key": "moves-along"}

    assert ask("192.0.2.1", **key) == ask("192.0.2.2", **key)
    assert ask("192.0.2.1") != ask("192.0.2.1")


def test_webhooks_belong_to_the_owner_of_their_job(keyed: Stack, alice: Client, bob: Client, admin: Client) -> None:
    job = alice.generate(webhook_url="https://hooks.example.com/?token=alices")
    waiting = {"state": "pending"}

    (webhook,) = alice.get("/api/webhooks", params=waiting).json()["webhooks"]
    again = f"/api/webhooks/{webhook['id']}/redeliver"
    foreign, unknown = (bob.request("POST", path) for path in (again, again.replace(job["id"], UNKNOWN_ID)))

    assert webhook["job_id"] == job["id"]
    assert bob.get("/api/webhooks", params=waiting).json() == {"webhooks": [], "cursor": None}
    assert_problem(foreign, 404, "webhook-not-found")
    assert observed(foreign) == observed(unknown)
    assert [one["id"] for one in admin.get("/api/webhooks", params=waiting).json()["webhooks"]] == [webhook["id"]]
    assert [client.request("POST", again).status_code for client in (alice, admin)] == [202, 202]
    assert Client(keyed.api, ALICE_READ_ONLY).request("POST", again).status_code == 403


def test_the_number_of_active_jobs_per_owner_is_limited(keyed: Stack) -> None:
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


def test_jobs_from_before_keys_belong_to_the_admin(redis_url: str, stack: Stack) -> None:
    job = Client(stack.start_api(SD_BACKENDS="null"), None).submit()
    api = stack.start_api(SD_BACKENDS="null", SD_API_KEY=f"alice:{ALICE},ops:{ALICE}x:admin")

    assert Client(api, ALICE).get(job["links"]["self"]).status_code == 404
    assert Client(api, ALICE).job_ids() == []
    assert Client(api, f"{ALICE}x").job_ids() == [job["id"]]
