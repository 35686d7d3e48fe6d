"""GET /api/events: the events of all jobs of a caller on one stream."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests

from api.delivery.feed import MAX_HISTORY, EventHistory
from shared.jobs.snapshots import JobEvent
from tests.api.clients import ADMIN, ALICE, BOB, Client
from tests.api.native.test_jobs import submit
from tests.api.problem import assert_problem
from tests.stack import Api, Event, Stack
from tests.support.polling import wait_until


@contextmanager
def following(api: Api, last: str = "", query: str = "", key: str = "") -> Iterator[Iterator[Event]]:
    headers = {"X-API-Key": key} if key else {}
    with api.stream(f"/api/events{query}", last, **headers) as events:
        if not last:
            assert next(events).type == "sync"
        yield events


def until_done(events: Iterator[Event], job_id: str) -> list[Event]:
    """The events of a job until it ends."""
    found = []
    for event in events:
        if event.data.get("id") == job_id:
            found.append(event)
            if event.type == "done":
                return found
    raise AssertionError("the stream ended")


def test_a_job_that_is_created_later_is_followed_to_its_end(api: Api) -> None:
    with following(api) as events:
        job = submit(api, seconds=2)
        seen = until_done(events, job["id"])

    # Each has the job as it is when the event is sent, which may be later than the event.
    states = [event.data["state"] for event in seen if event.type == "state"]
    assert states in (["queued", "running"], ["running", "running"])
    assert "progress" in {event.type for event in seen}
    assert all(event.data["fraction"] <= 1 for event in seen if event.type == "progress")
    assert seen[-1].data == api.get(job["links"]["self"]).json()


def test_several_jobs_share_a_stream(api: Api) -> None:
    with following(api) as events:
        jobs = {submit(api)["id"] for _ in range(3)}
        ended = set()
        for event in events:
            if event.type == "done" and event.data["id"] in jobs:
                ended.add(event.data["id"])
            if ended == jobs:
                break

    assert ended == jobs


def test_a_broken_stream_resumes_with_what_it_missed(api: Api) -> None:
    with following(api) as events:
        first = submit(api)
        last = until_done(events, first["id"])[-1].id
    missed = submit(api)
    api.wait_until_done(missed["id"])

    with following(api, last) as events:
        seen = until_done(events, missed["id"])

    assert {event.type for event in seen} == {"state", "done"}
    assert seen[-1].data["state"] == "succeeded"


@pytest.mark.parametrize("last", ["1-0", "99999999999999999999999-0", "x"])
def test_a_stream_that_cannot_resume_asks_to_read_the_jobs(api: Api, last: str) -> None:
    api.wait_until_done(submit(api)["id"])

    with following(api, last) as events:
        assert next(events).type == "sync"


def test_another_process_resumes_the_stream(null: Stack, other_api: Api) -> None:
    # It has seen one event, and so knows of all later ones.
    null.api.wait_until_done(submit(null.api)["id"])
    with following(null.api) as events:
        last = until_done(events, submit(null.api)["id"])[-1].id
    missed = submit(null.api)
    null.api.wait_until_done(missed["id"])

    with following(other_api, last) as events:
        assert until_done(events, missed["id"])[-1].type == "done"


def test_previews_are_sent_unless_they_are_not_wanted(api: Api) -> None:
    with following(api) as events, following(api, query="?previews=false") as quiet:
        job = submit(api, seconds=2.2, num_inference_steps=10)
        seen = until_done(events, job["id"])
        unseen = until_done(quiet, job["id"])

    previews = [event.data for event in seen if event.type == "preview"]
    assert previews
    assert all(preview["b64_json"] and preview["media_type"] == "image/jpeg" for preview in previews)
    assert "preview" not in {event.type for event in unseen}


def test_each_key_follows_its_own_jobs(keyed: Stack, alice: Client, bob: Client) -> None:
    with (
        following(keyed.api, key=ALICE) as alices,
        following(keyed.api, key=BOB) as bobs,
        following(keyed.api, key=ADMIN) as admins,
    ):
        of_alice, of_bob = alice.submit(), bob.submit()
        until_done(admins, of_alice["id"])
        until_done(alices, of_alice["id"])
        first_of_bob = next(event for event in bobs)

    assert first_of_bob.data["id"] == of_bob["id"]


def test_streams_are_limited_for_each_client(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null", SD_MAX_EVENT_STREAMS="1")

    with following(api):
        assert_problem(api.get("/api/events"), 429, "rate-limited")
    wait_until(lambda: status(api) == 200)


def status(api: Api) -> int:
    with requests.get(f"{api.url}/api/events", stream=True, timeout=10) as answer:
        return answer.status_code


def test_the_stream_ends_with_the_process(stack: Stack) -> None:
    import signal

    api = stack.start_api(SD_BACKENDS="null")
    with following(api) as events:
        api.process.send(signal.SIGTERM)
        assert [event.type for event in events] in ([], ["sync"])


def history(*ids: str) -> EventHistory:
    events = EventHistory()
    for event_id in ids:
        events.add(JobEvent("job", event_id, "state", "running"))
    return events


def test_a_history_resumes_after_events_that_it_has_seen() -> None:
    events = history("5-0", "7-0", "7-1", "9-0")

    assert [event.id for event in events.since("7-0") or ()] == ["7-0", "7-1", "9-0"]
    assert events.since("4-0") is None
    assert events.since("") is None
    events.start_over()
    assert events.since("9-0") is None


def test_a_history_forgets_the_oldest_events() -> None:
    events = history(*(f"{number}-0" for number in range(MAX_HISTORY + 10)))

    assert events.since("9-0") is None
    assert len(events.since("10-0") or ()) == MAX_HISTORY


def test_a_history_does_not_resume_over_a_clock_that_was_set_back() -> None:
    events = history("7000-0", "9000-0")
    assert events.since("9000-0") is not None

    events.add(JobEvent("other", "3000-0", "state", "running"))

    assert events.since("9000-0") is None
    assert [event.id for event in events.since("3000-0") or ()] == ["3000-0"]
