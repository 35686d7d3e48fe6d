"""How much one caller may ask for: requests, streams, work."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import takewhile

import pytest
import redis
import requests

from tests.api.clients import ADMIN, ALICE, BOB, KEYS, Client
from tests.api.native.test_jobs import submit
from tests.api.problem import assert_problem, pointers
from tests.stack import Api, Stack

RATE = {"SD_REQUESTS_PER_SECOND": "2", "SD_REQUEST_BURST": "5"}


@pytest.fixture(scope="module")
def slow_doors(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two processes of a service that takes few requests."""
    folder = tmp_path_factory.mktemp("slow-doors")
    with Stack(redis_url, folder, SD_BACKENDS="null", SD_API_KEY=KEYS, **RATE) as stack:
        stack.start_api()
        stack.start_api()
        yield stack


@pytest.fixture(scope="module")
def closed_doors(slow_doors: Stack) -> Client:
    """Who has asked for all that may be asked for in the next minutes."""
    client = Client(slow_doors.start_api(SD_REQUESTS_PER_SECOND="0.01"), ADMIN)
    while client.get("/api/jobs").status_code != 429:
        pass
    return client


@contextmanager
def asked_of_redis(stack: Stack) -> Iterator[list[str]]:
    """After the block: the commands meanwhile that counted somebody of this service."""
    asked: list[str] = []
    with redis.Redis.from_url(stack.settings["SD_REDIS_URL"]) as server, server.monitor() as monitor:
        yield asked
        server.echo("the end")
        commands = (str(command["command"]) for command in monitor.listen())
        told = takewhile(lambda command: "the end" not in command, commands)
        asked += [command for command in told if f"{stack.prefix}rate:" in command]


def test_all_processes_together_take_a_burst_and_then_so_many_a_second(slow_doors: Stack) -> None:
    alices = [Client(api, ALICE) for api in slow_doors.apis[:2]]
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


def test_one_caller_takes_nothing_from_another(slow_doors: Stack) -> None:
    alice, bob = Client(slow_doors.api, ALICE), Client(slow_doors.api, BOB)
    codes = {alice.get("/api/jobs").status_code for _ in range(20)}

    assert 429 in codes
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
def test_every_request_about_jobs_counts(closed_doors: Client, method: str, path: str) -> None:
    assert_problem(closed_doors.request(method, path, json={"prompt": "x"}), 429, "rate-limited")


def test_a_refused_submit_makes_no_job(slow_doors: Stack) -> None:
    bob = Client(slow_doors.api, BOB)
    answers = [bob.request("POST", "/api/jobs", json={"prompt": "x", "label": "refused"}) for _ in range(20)]
    made = sum(answer.status_code == 202 for answer in answers)

    # As the refusals ask for.
    time.sleep(max(int(answer.headers.get("retry-after", 0)) for answer in answers))
    assert len(bob.job_ids(label="refused")) == made < 20


def test_what_is_refused_counts(slow_doors: Stack) -> None:
    bob = Client(slow_doors.start_api(), BOB)
    codes = [bob.request("POST", "/api/jobs", json={"wrong": "field"}).status_code for _ in range(20)]

    assert codes.count(422) < 12
    assert codes[-1] == 429


def test_wrong_keys_are_counted_by_address_and_ask_nothing_of_redis(slow_doors: Stack) -> None:
    api = slow_doors.start_api(SD_REQUEST_BURST="50", SD_TRUSTED_PROXIES="127.0.0.1")
    with asked_of_redis(slow_doors) as asked:

        def codes(address: str, key: str) -> list[int]:
            headers = {"X-Forwarded-For": address, "X-API-Key": key}
            return [api.get("/api/jobs", headers=headers).status_code for _ in range(10)]

        assert codes("2001:db8:1:2::1", "wrong") == [401] * 5 + [429] * 5
        assert codes("2001:db8:1:2:ffff::9", "wrong") == [429] * 10, "of the same network"
        assert codes("2001:db8:1:3::1", "wrong")[0] == 401
    assert asked == []
    assert codes("2001:db8:1:2::1", ALICE)[0] == 200, "a neighbour with a key"


def test_a_caller_that_is_refused_asks_nothing_of_redis(slow_doors: Stack) -> None:
    admin = Client(slow_doors.start_api(SD_REQUESTS_PER_SECOND="0.01"), ADMIN)
    while admin.get("/api/jobs").status_code != 429:
        pass

    with asked_of_redis(slow_doors) as asked:
        assert {admin.get("/api/jobs").status_code for _ in range(20)} == {429}

    assert asked == []


def test_probes_are_always_answered(closed_doors: Client) -> None:
    assert {closed_doors.get("/health/live").status_code for _ in range(30)} == {200}


def test_without_keys_addresses_are_counted(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null", SD_TRUSTED_PROXIES="127.0.0.1", **RATE)

    def codes(client: str) -> list[int]:
        return [api.get("/api/jobs", headers={"X-Forwarded-For": client}).status_code for _ in range(10)]

    assert codes("192.0.2.1").count(200) < 10
    assert codes("192.0.2.2")[0] == 200


def test_a_caller_has_only_so_many_event_streams(keyed: Stack) -> None:
    api = keyed.start_api(SD_MAX_EVENT_STREAMS="2")
    alice, bob = Client(api, ALICE), Client(api, BOB)
    ended = bob.generate()
    job = alice.submit(num_inference_steps=100, metadata={"simulate": {"seconds": 20}})
    path = job["links"]["events"]
    streams = [alice.get(path, stream=True) for _ in range(2)]

    refused = alice.get(path)
    others = bob.get(ended["links"]["events"])
    streams[0].close()
    freed = next(answer for answer in iter(lambda: alice.get(path, stream=True), None) if answer.status_code == 200)

    assert_problem(refused, 429, "rate-limited")
    assert others.status_code == 200
    for stream in (freed, streams[1]):
        stream.close()
    alice.request("DELETE", job["links"]["self"])


def test_streams_that_ended_take_no_place(keyed: Stack) -> None:
    alice = Client(keyed.start_api(SD_MAX_EVENT_STREAMS="1"), ALICE)
    path = alice.generate()["links"]["events"]

    assert [alice.get(path).status_code for _ in range(5)] == [200] * 5
    assert alice.get("/api/jobs/unknown/events").status_code == 404
    assert alice.get(path).status_code == 200


@pytest.fixture(scope="module")
def frugal(null: Stack) -> Api:
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
def test_a_request_for_too_much_work_is_refused(frugal: Api, fields: dict[str, int], status: int) -> None:
    answer = requests.post(f"{frugal.url}/api/jobs", json={"prompt": "x", **fields}, timeout=10)

    assert answer.status_code == status
    if status == 422:
        assert pointers(answer) == ["/num_inference_steps"]


def test_the_limit_of_work_is_told(frugal: Api) -> None:
    null = next(one for one in frugal.get("/api/backends").json()["backends"] if one["name"] == "null")

    assert frugal.get("/info").json()["limits"]["max_pixel_steps"] == 100_000
    assert null["capabilities"]["x-max-pixel-steps"] == 100_000


def test_a_default_service_takes_what_people_ask_for(api: Api) -> None:
    job = submit(api, width=512, height=512, num_inference_steps=4)

    assert api.wait_until_done(job["id"])["state"] == "succeeded"
