"""Limits per caller: requests, event streams, work."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import takewhile

import pytest
import redis
import requests

from api.edge import rate_limit
from shared.errors import RateLimited
from shared.redis.rate_limits import RateLimits
from shared.redis.store import AsyncStore, async_connections
from tests.api.clients import ADMIN, ALICE, BOB, KEYS, PRIORITY, Client
from tests.api.native.test_jobs import submit
from tests.api.problem import assert_problem, pointers
from tests.stack import Api, Stack

RATE = {"SD_REQUESTS_PER_SECOND": "2", "SD_REQUEST_BURST": "5"}
#: So slow that a test, however long it takes, sees the burst only.
SLOW_RATE = {"SD_REQUESTS_PER_SECOND": "0.01"}


@pytest.fixture(scope="module")
def limited(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two processes of a service with a low request rate."""
    folder = tmp_path_factory.mktemp("limited")
    with Stack(redis_url, folder, SD_BACKENDS="null", SD_API_KEY=KEYS, **RATE) as stack:
        stack.start_api()
        stack.start_api()
        yield stack


@pytest.fixture(scope="module")
def refused(limited: Stack) -> Client:
    """A client that is refused for the next minutes."""
    client = Client(limited.start_api(**SLOW_RATE), ADMIN)
    while client.get("/api/jobs").status_code != 429:
        pass
    return client


@contextmanager
def rate_limit_commands(stack: Stack) -> Iterator[list[str]]:
    """After the block: the Redis commands that it caused for rate limits of this service."""
    found: list[str] = []
    with redis.Redis.from_url(stack.settings["SD_REDIS_URL"]) as server, server.monitor() as monitor:
        yield found
        server.echo("the end")
        commands = (str(command["command"]) for command in monitor.listen())
        during_block = takewhile(lambda command: "the end" not in command, commands)
        found += [command for command in during_block if f"{stack.prefix}rate:" in command]


def test_all_processes_share_one_burst_and_rate(limited: Stack) -> None:
    alices = [Client(api, ALICE) for api in limited.apis[:2]]
    begin = time.monotonic()
    with ThreadPoolExecutor(10) as many:
        answers = list(many.map(lambda n: alices[n % 2].get("/api/jobs"), range(20)))
    spent = time.monotonic() - begin

    taken = [answer for answer in answers if answer.status_code == 200]
    assert 5 <= len(taken) <= 5 + 2 * spent + 1
    for answer in answers:
        if answer.status_code != 200:
            assert_problem(answer, 429, "rate-limited")
            assert answer.headers["retry-after"] == "1"


def test_the_limit_of_one_caller_does_not_affect_another(limited: Stack) -> None:
    alice, bob = Client(limited.api, ALICE), Client(limited.api, BOB)
    while alice.get("/api/jobs").status_code != 429:
        pass

    assert bob.get("/api/jobs").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/jobs"),
        ("POST", "/api/txt2img"),
        ("GET", "/api/jobs"),
        ("GET", "/api/jobs/x"),
        ("GET", "/api/jobs/x/events"),
        ("GET", "/api/jobs/x/images/0"),
        ("DELETE", "/api/jobs/x"),
        ("PUT", "/api/jobs/x/pin"),
    ],
)
def test_every_request_about_jobs_is_limited(refused: Client, method: str, path: str) -> None:
    assert_problem(refused.request(method, path, json={"prompt": "x"}), 429, "rate-limited")


def test_a_refused_submission_creates_no_job(limited: Stack) -> None:
    bob = Client(limited.api, BOB)
    answers = list[requests.Response]()
    while not answers or answers[-1].status_code == 202:
        answers.append(bob.request("POST", "/api/jobs", json={"prompt": "x", "label": "refused"}))

    assert_problem(answers[-1], 429, "rate-limited")
    # As Retry-After demands.
    time.sleep(int(answers[-1].headers["retry-after"]))
    assert len(bob.job_ids(label="refused")) == len(answers) - 1


def test_invalid_requests_count_too(limited: Stack) -> None:
    client, begin = Client(limited.api, PRIORITY), time.monotonic()
    codes: list[int] = []
    while codes[-1:] != [429]:
        codes.append(client.request("POST", "/api/jobs", json={"wrong": "field"}).status_code)

    assert 5 <= codes.count(422) <= 5 + 2 * (time.monotonic() - begin) + 1


def test_invalid_keys_are_limited_per_address_without_redis(limited: Stack) -> None:
    api = limited.start_api(SD_REQUEST_BURST="50", SD_TRUSTED_PROXIES="127.0.0.1", **SLOW_RATE)
    with rate_limit_commands(limited) as commands:

        def codes(address: str, key: str) -> list[int]:
            headers = {"X-Forwarded-For": address, "X-API-Key": key}
            return [api.get("/api/jobs", headers=headers).status_code for _ in range(10)]

        assert codes("2001:db8:1:2::1", "wrong") == [401] * 5 + [429] * 5
        assert codes("2001:db8:1:2:ffff::9", "wrong") == [429] * 10, "of the same network"
        assert codes("2001:db8:1:3::1", "wrong")[0] == 401
    assert commands == []
    assert codes("2001:db8:1:2::1", ALICE)[0] == 200, "a neighbour with a key"
    public = api.get("/docs", headers={"X-Forwarded-For": "2001:db8:1:2::1"})
    assert public.status_code == 200, "what needs no key"


def test_clients_that_are_counted_locally_are_forgotten_beyond_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_CLIENTS", 2)
    store = AsyncStore(async_connections("unix:///nowhere"))
    limit = rate_limit.RateLimit(store, RateLimits("", per_second=0.01, burst=1), burst=1)
    limit.charge_locally("first")
    with pytest.raises(RateLimited):
        limit.charge_locally("first")

    for client in ("second", "third", "first"):
        limit.charge_locally(client)


def test_a_refused_caller_causes_no_redis_command(limited: Stack, refused: Client) -> None:
    with rate_limit_commands(limited) as commands:
        assert {refused.get("/api/jobs").status_code for _ in range(20)} == {429}

    assert commands == []


def test_probes_are_always_answered(refused: Client) -> None:
    assert {refused.get("/health/live").status_code for _ in range(30)} == {200}


def test_without_keys_each_address_has_its_own_limit(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null", SD_TRUSTED_PROXIES="127.0.0.1", **RATE | SLOW_RATE)

    def codes(client: str) -> list[int]:
        return [api.get("/api/jobs", headers={"X-Forwarded-For": client}).status_code for _ in range(10)]

    assert codes("192.0.2.1").count(200) < 10
    assert codes("192.0.2.2")[0] == 200
    # A request with a large body counts as several.
    headers = {"X-Forwarded-For": "192.0.2.3"}
    assert requests.post(f"{api.url}/api/jobs", bytes(5 << 20), headers=headers, timeout=30).status_code == 415
    assert codes("192.0.2.3")[0] == 429


@pytest.fixture(scope="module")
def two_streams(keyed: Stack) -> Api:
    return keyed.start_api(SD_MAX_EVENT_STREAMS="2")


def test_a_caller_can_open_a_limited_number_of_event_streams(two_streams: Api) -> None:
    alice, bob = Client(two_streams, ALICE), Client(two_streams, BOB)
    ended = bob.generate()
    job = alice.submit(num_inference_steps=100, metadata={"simulate": {"seconds": 20}})
    path = job["links"]["events"]
    streams = [alice.get(path, stream=True) for _ in range(2)]

    refused = alice.get(path)
    others = bob.get(ended["links"]["events"])
    streams[0].close()
    third = next(answer for answer in iter(lambda: alice.get(path, stream=True), None) if answer.status_code == 200)

    assert_problem(refused, 429, "rate-limited")
    assert others.status_code == 200
    for stream in (third, streams[1]):
        stream.close()
    alice.request("DELETE", job["links"]["self"])


def test_a_caller_can_let_a_limited_number_of_calls_wait_for_one_job(two_streams: Api) -> None:
    alice, key = Client(two_streams, ALICE), {"Idempotency-Key": "waiting"}
    body = {"prompt": "x", "num_inference_steps": 100, "metadata": {"simulate": {"seconds": 10}}}
    job = alice.request("POST", "/api/jobs", json=body, headers=key).json()

    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(alice.request, "POST", "/api/txt2img", json=body, headers=key) for _ in range(3)]
        refused = next(as_completed(calls))
        others = alice.get(job["links"]["events"], stream=True)
        alice.request("DELETE", job["links"]["self"])

    assert_problem(refused.result(), 429, "rate-limited")
    assert refused.result().headers["x-job-id"] == job["id"]
    assert [call.result().json()["state"] for call in calls if call is not refused] == ["cancelled"] * 2
    assert others.status_code == 200, "event streams are counted by themselves"
    others.close()


def test_ended_streams_free_their_slots(two_streams: Api) -> None:
    bob = Client(two_streams, BOB)
    path = bob.generate()["links"]["events"]

    assert [bob.get(path).status_code for _ in range(5)] == [200] * 5
    assert [bob.get("/api/jobs/unknown/events").status_code for _ in range(3)] == [404] * 3
    assert bob.get(path).status_code == 200


@pytest.fixture(scope="module")
def low_limit(null: Stack) -> Api:
    return null.start_api(SD_MAX_PIXEL_STEPS="100000")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"width": 64, "height": 64, "num_inference_steps": 24}, 202),
        ({"width": 64, "height": 64, "num_inference_steps": 25}, 422),
        ({"width": 64, "height": 64, "num_inference_steps": 12, "num_images": 2}, 202),
        ({"width": 64, "height": 64, "num_inference_steps": 13, "num_images": 2}, 422),
        ({"num_inference_steps": 150}, 422),
        ({"width": 512, "height": 512}, 422),
    ],
)
def test_a_request_beyond_the_limit_of_pixel_steps_is_refused(
    low_limit: Api, fields: dict[str, int], status: int
) -> None:
    answer = requests.post(f"{low_limit.url}/api/jobs", json={"prompt": "x", **fields}, timeout=10)

    assert answer.status_code == status
    if status == 422:
        assert pointers(answer) == ["/num_inference_steps"]


def test_the_limit_of_pixel_steps_is_published(low_limit: Api) -> None:
    null = next(one for one in low_limit.get("/api/backends").json()["backends"] if one["name"] == "null")

    assert low_limit.get("/info").json()["limits"]["max_pixel_steps"] == 100_000
    assert null["capabilities"]["x-max-pixel-steps"] == 100_000


def test_the_default_limits_accept_common_requests(api: Api) -> None:
    job = submit(api, width=512, height=512, num_inference_steps=4)

    assert api.wait_until_done(job["id"])["state"] == "succeeded"
