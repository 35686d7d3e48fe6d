"""Calls that are lost or outlast the wait become one job, whatever the client does."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import requests

from shared.redis.store import connect
from tests.api.images import encoded, half_mask, scene
from tests.api.protocols.conftest import openai_for
from tests.api.protocols.openai.cutting_proxy import cutting_proxy
from tests.stack import Api, Stack
from tests.support.polling import wait_until

GENERATIONS = "/v1/images/generations"
NUM_CALLS = 200


@pytest.fixture(scope="module")
def impatient(null: Stack) -> Api:
    """Sends callers away after a second."""
    return null.start_api(SD_SYNC_TIMEOUT_SECONDS="1")


@pytest.fixture(scope="module")
def impatient_with_all(null: Stack) -> Api:
    return null.start_api(SD_CLIENT_WAIT_SECONDS="1")


def slow(seconds: float, **fields: Any) -> dict[str, Any]:
    """A body that nobody else sends."""
    return {"prompt": str(uuid.uuid4()), "metadata": {"simulate": {"seconds": seconds}}, **fields}


def call(api: Api, body: dict[str, Any], attempt: int | None = None, key: str = "") -> requests.Response:
    headers = {} if attempt is None else {"x-stainless-retry-count": str(attempt)}
    headers |= {"Idempotency-Key": key} if key else {}
    return api.post(GENERATIONS, body, headers=headers)


def job_ids(api: Api, label: str) -> list[str]:
    found, cursor = [], ""
    while True:
        page = api.get("/api/jobs", params={"label": label, "limit": "100", **({"cursor": cursor} if cursor else {})})
        found += [job["id"] for job in page.json()["jobs"]]
        if (cursor := page.json()["cursor"]) is None:
            return found


def is_unconfirmed(stack: Stack, job_id: str) -> bool:
    with connect(stack.settings["SD_REDIS_URL"]) as redis:
        lists = redis.scan_iter(f"{stack.prefix}repeat:*", _type="list")
        return any(job_id in redis.lrange(name, 0, -1) for name in lists)


def test_calls_whose_first_answers_are_cut_make_no_second_job(null: Stack) -> None:
    label = str(uuid.uuid4())

    def ask(client: openai.OpenAI, number: int) -> None:
        # Every other call has the body of its neighbour.
        images = client.images.generate(prompt=f"number {number // 2}", extra_body={"label": label})
        assert images.data is not None

    with cutting_proxy(null.api.url) as proxy, openai_for(proxy.url) as client, ThreadPoolExecutor(16) as callers:
        list(callers.map(lambda number: ask(client, number), range(NUM_CALLS)))

    assert proxy.cut == NUM_CALLS
    assert len(job_ids(null.api, label)) == NUM_CALLS


def test_a_call_that_outlasts_the_wait_is_finished_by_the_retries_of_the_client(impatient: Api) -> None:
    body, label = slow(2.5), str(uuid.uuid4())

    with openai_for(impatient.url) as client:
        images = client.images.generate(
            prompt=body["prompt"], extra_body={"metadata": body["metadata"], "label": label}
        )

    assert images.data is not None
    assert len(job_ids(impatient, label)) == 1


def test_a_client_that_gives_up_waiting_finds_the_job_and_leaves_nothing_behind(null: Stack) -> None:
    body, label = slow(2.5), str(uuid.uuid4())
    fields = {"metadata": body["metadata"], "label": label}

    with openai_for(null.api.url, timeout=1.2, max_retries=4) as client:
        client.images.generate(prompt=body["prompt"], extra_body=fields)
        (first,) = job_ids(null.api, label)
        null.api.wait_until_done(first)
        client.images.generate(prompt=body["prompt"], extra_body=fields)

    assert len(job_ids(null.api, label)) == 2


def test_a_caller_without_numbers_that_disconnects_finds_the_job(null: Stack) -> None:
    body = slow(1.5, label=str(uuid.uuid4()))
    with pytest.raises(requests.Timeout):
        requests.post(null.api.url + GENERATIONS, json=body, timeout=0.7)
    (job,) = job_ids(null.api, body["label"])
    # Clients pause before they repeat a call. Without that, the API may read the next one before it sees this one end.
    wait_until(lambda: is_unconfirmed(null, job))

    joined = call(null.api, body)

    assert joined.headers["x-job-id"] == job
    assert job_ids(null.api, body["label"]) == [job]


def test_a_form_is_recognised_although_its_boundary_differs(impatient: Api) -> None:
    label = str(uuid.uuid4())
    fields = {"label": label, "metadata": '{"simulate": {"seconds": 2.5}}', "mask_mode": "white"}
    files = {name: (name, encoded(image), "image/png") for name, image in (("a", scene()), ("b", half_mask()))}

    with openai_for(impatient.url) as client:
        images = client.images.edit(prompt="x", image=files["a"], mask=files["b"], extra_body=fields)

    assert images.data is not None
    assert len(job_ids(impatient, label)) == 1


def test_a_caller_who_is_sent_away_is_told_to_ask_again(impatient: Api) -> None:
    answer = call(impatient, slow(2), attempt=0)

    assert (answer.status_code, answer.headers["x-should-retry"], answer.headers["retry-after"]) == (503, "true", "1")
    error = answer.json()["error"]
    assert (error["code"], error["job_id"]) == ("not-finished", answer.headers["x-request-id"])


def test_the_next_equal_call_joins_the_job_of_the_caller_who_was_sent_away_last(impatient: Api) -> None:
    body = slow(1.5)
    away = call(impatient, body, attempt=0)
    impatient.wait_until_done(away.headers["x-job-id"])

    joined, another = call(impatient, body, attempt=0), call(impatient, body, attempt=0)

    assert away.status_code == 503
    assert joined.headers["x-job-id"] == away.headers["x-job-id"]
    assert another.headers["x-job-id"] != away.headers["x-job-id"]


def test_equal_callers_who_are_sent_away_get_a_job_each(impatient: Api) -> None:
    body = slow(1.2)
    with ThreadPoolExecutor(2) as callers:
        away = list(callers.map(lambda _: call(impatient, body, attempt=0), range(2)))
        joined = list(callers.map(lambda _: call(impatient, body, attempt=1), range(2)))

    jobs = {answer.headers["x-job-id"] for answer in away}
    assert len(jobs) == 2
    assert {answer.headers["x-job-id"] for answer in joined} == jobs


def test_whoever_does_not_ask_again_is_waited_for(impatient: Api) -> None:
    assert call(impatient, slow(1.8)).status_code == 200


def test_whoever_does_not_ask_again_has_a_limit_too_and_finds_the_job_afterwards(impatient_with_all: Api) -> None:
    body = slow(1.5)

    away, joined = call(impatient_with_all, body), call(impatient_with_all, body)

    assert (away.status_code, away.json()["error"]["code"]) == (503, "not-finished")
    assert (joined.status_code, joined.headers["x-job-id"]) == (200, away.headers["x-job-id"])


@pytest.mark.parametrize("attempt", [None, 0])
def test_two_equal_first_calls_stay_two_jobs(null: Stack, attempt: int | None) -> None:
    body = slow(0)

    first, second = call(null.api, body, attempt), call(null.api, body, attempt)

    assert first.headers["x-job-id"] != second.headers["x-job-id"]


def test_an_idempotency_key_holds_here_as_well(null: Stack) -> None:
    key = str(uuid.uuid4())

    first, second = (call(null.api, {"prompt": "x"}, key=key) for _ in range(2))
    other = call(null.api, {"prompt": "y"}, key=key)

    assert first.headers["x-job-id"] == second.headers["x-job-id"]
    assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency-mismatch")


def test_a_job_that_was_cancelled_has_no_image(null: Stack) -> None:
    label = str(uuid.uuid4())
    answers: list[requests.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(call(null.api, slow(20, label=label))))
    waiting.start()
    while not (found := job_ids(null.api, label)):
        waiting.join(0.05)

    null.api.delete(f"/api/jobs/{found[0]}")
    waiting.join()

    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (404, "image-not-found")
