"""Webhooks of the whole service: an API, a worker and a housekeeper, and a receiver that checks every signature."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.problem import assert_problem, pointers
from tests.polling import wait_until
from tests.shared.webhooks.receiver import SECRET, Receiver, answer, receiving
from tests.stack import Stack

ALL = ["started", "progress", "succeeded", "failed", "cancelled"]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def stack(redis_url: str, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {
        "SD_BACKENDS": "null",
        "SD_WEBHOOK_ALLOW": f"{receiver.origin}/hooks",
        "SD_WEBHOOK_SECRET": SECRET,
        "SD_WEBHOOK_HEADER": "X-Hook-Token: of-the-operator",
    }
    with Stack(redis_url, tmp_path_factory.mktemp("webhooks"), **settings) as stack:
        stack.start_worker("null")
        stack.start_api()
        stack.start_housekeeper()
        yield stack


def submit(stack: Stack, receiver: Receiver, seconds: float = 0, **fields: Any) -> dict[str, Any]:
    metadata = {"simulate": {"seconds": seconds, **fields.pop("simulate", {})}}
    body = {"prompt": "x", "metadata": metadata, "webhook_url": receiver.url, **fields}
    answered = stack.api.post("/api/jobs", body)
    assert answered.status_code == 202, answered.text
    job: dict[str, Any] = answered.json()
    return job


def deliveries(stack: Stack, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    told = stack.api.get(job["links"]["self"]).json()["webhook"]["deliveries"]
    return {delivery["event"]: delivery for delivery in told}


def test_a_job_tells_of_its_start_its_progress_and_its_end_in_this_order(stack: Stack, receiver: Receiver) -> None:
    job = submit(stack, receiver, 1.2, webhook_events=ALL, num_inference_steps=20)

    heard = receiver.until("succeeded")

    for arrival in heard:
        arrival.verify()
        assert arrival.headers["x-hook-token"] == "of-the-operator"
        assert arrival.message["data"]["id"] == job["id"]
    types = [arrival.type for arrival in heard]
    assert types == ["started", *["progress"] * (len(types) - 2), "succeeded"]
    assert 1 <= types.count("progress") <= 3
    assert 0 < heard[1].message["data"]["progress"]["fraction"] <= 1
    wait_until(lambda: deliveries(stack, job)["succeeded"]["state"] == "delivered")


def test_what_is_told_is_the_job_as_it_is_answered(stack: Stack, receiver: Receiver) -> None:
    answered = stack.api.post("/api/txt2img", {"prompt": "x", "label": "l", "webhook_url": receiver.url}).json()

    told = receiver.next().message["data"]

    assert told | {"webhook": None} == answered | {"webhook": None}
    assert stack.api.http.get(told["images"][0]["url"]).content[:4] == b"\x89PNG"


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_an_end_without_a_image_is_told_with_its_reason(stack: Stack, receiver: Receiver, end: str) -> None:
    if end == "failed":
        submit(stack, receiver, simulate={"fail": "out-of-memory"})
    else:
        job = submit(stack, receiver, 5.0, webhook_events=["started", "cancelled"])
        assert receiver.next().type == "started"
        stack.api.delete(job["links"]["self"])

    arrival = receiver.next()

    arrival.verify()
    assert arrival.type == arrival.message["data"]["state"] == end
    assert (arrival.message["data"]["error"] or {}).get("code") == ("out-of-memory" if end == "failed" else None)


def test_a_job_shows_its_webhook_without_the_secret_in_its_address(stack: Stack, receiver: Receiver) -> None:
    job = submit(stack, receiver)
    receiver.next()
    wait_until(lambda: deliveries(stack, job)["succeeded"]["state"] == "delivered")

    shown = stack.api.get(job["links"]["self"])

    webhook = shown.json()["webhook"]
    assert webhook["url"] == f"{receiver.origin}/hooks/images"
    assert webhook["events"] == ["succeeded", "failed", "cancelled"]
    (delivery,) = webhook["deliveries"]
    assert delivery["id"] == receiver.arrivals[-1].id
    assert (delivery["attempts"], delivery["last_status"], delivery["last_error"]) == (1, 204, None)
    listed = next(one for one in stack.api.get("/api/jobs").json()["jobs"] if one["id"] == job["id"])
    assert listed["webhook"] == webhook
    assert "secret-of-the-caller" not in shown.text


def test_what_was_given_up_is_listed_and_sent_again(stack: Stack, receiver: Receiver) -> None:
    receiver.behave = answer(410)
    job = submit(stack, receiver)
    first = receiver.next()
    receiver.behave = answer(204)
    wait_until(lambda: deliveries(stack, job)["succeeded"]["state"] == "dead")

    listed = stack.api.get("/api/webhooks", params={"state": "dead"})
    (dead,) = listed.json()["webhooks"]
    assert (dead["id"], dead["job_id"], dead["last_status"]) == (first.id, job["id"], 410)
    assert dead["url"] == f"{receiver.origin}/hooks/images"
    assert "secret-of-the-caller" not in listed.text

    answered = stack.api.post(f"/api/webhooks/{dead['id']}/redeliver", {})

    assert (answered.status_code, answered.headers["x-job-id"]) == (202, job["id"])
    assert answered.json()["state"] == "pending"
    again = receiver.next()
    again.verify()
    assert (again.id, again.body) == (first.id, first.body)
    wait_until(lambda: deliveries(stack, job)["succeeded"]["state"] == "delivered")
    assert stack.api.get("/api/webhooks").json() == {"webhooks": [], "cursor": None}
    assert_problem(stack.api.post(f"/api/webhooks/{dead['id']}/redeliver", {}), 404, "webhook-not-found")


def test_the_fate_of_a_webhook_is_not_that_of_its_job(stack: Stack, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    job = submit(stack, receiver)
    receiver.next()
    receiver.behave = answer(204)
    wait_until(lambda: deliveries(stack, job)["succeeded"]["attempts"] == 1)

    assert stack.api.get(job["links"]["self"]).json()["state"] == "succeeded"
    waiting = stack.api.get("/api/webhooks", params={"state": "pending"}).json()["webhooks"]
    assert [webhook["job_id"] for webhook in waiting] == [job["id"]]
    stack.api.post(f"/api/webhooks/{waiting[0]['id']}/redeliver", {})
    receiver.next().verify()


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://example.com/", "http://127.0.0.1/", "http://169.254.169.254/latest", "https://user:pw@example.com/",
     "http://example.com:6379/", "http://localhost/", "https://example.com/\u0000", "http://[::1]/"],
)  # fmt: skip
def test_an_address_that_is_none_of_a_receiver_is_refused_at_once(stack: Stack, url: str) -> None:
    answered = stack.api.post("/api/jobs", {"prompt": "x", "webhook_url": url})

    assert_problem(answered, 422, "invalid-request")
    assert pointers(answered) == ["/webhook_url"]


def test_news_that_goes_nowhere_is_refused(stack: Stack) -> None:
    for fields in ({"webhook_events": ["started"]}, {"webhook_inline_images": True}):
        assert_problem(stack.api.post("/api/jobs", {"prompt": "x", **fields}), 422, "invalid-request")
    unknown = {"prompt": "x", "webhook_url": "https://example.com/", "webhook_events": ["exploded"]}
    assert pointers(stack.api.post("/api/jobs", unknown)) == ["/webhook_events/0"]


def test_no_secret_is_in_any_log(stack: Stack, receiver: Receiver) -> None:
    submit(stack, receiver)
    receiver.next()

    written = "\n".join(process.output for process in (stack.api.process, *stack.workers))

    assert receiver.origin in written
    for secret in ("secret-of-the-caller", "of-the-operator", SECRET.removeprefix("whsec_")):
        assert secret not in written
