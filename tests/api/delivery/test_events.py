"""GET /api/jobs/{id}/events: what happens to a job, as it happens."""

import base64

import pytest
import redis

from tests.api.native.test_jobs import running, submit
from tests.stack import Api, Event, Stack

SIMULATED = {"seconds": 0.6, "num_inference_steps": 6}


def kinds(events: list[Event]) -> list[str]:
    return [event.type for event in events]


@pytest.fixture(scope="module")
def told(api: Api) -> list[Event]:
    """All events of a job that has ended."""
    return api.all_events(submit(api, **SIMULATED)["id"])


def test_events_tell_the_job_from_beginning_to_end(api: Api) -> None:
    job = submit(api, **SIMULATED)

    events = api.all_events(job["id"])

    assert kinds(events) == ["state", "state", *["progress"] * (len(events) - 3), "done"]
    assert [event.data["state"] for event in events[:2]] == ["queued", "running"]
    steps = [event.data["step"] for event in events[2:-1]]
    assert steps
    assert steps == sorted(set(steps))
    assert events[-1].data == api.get(job["links"]["self"]).json()


def test_event_ids_only_grow(told: list[Event]) -> None:
    ids = [tuple(map(int, event.id.split("-"))) for event in told]

    assert ids == sorted(set(ids))


def test_a_finished_job_tells_its_events_again(api: Api, told: list[Event]) -> None:
    assert marks(api.all_events(told[-1].data["id"])) == marks(told)


def test_every_event_can_be_resumed_after_without_loss_or_repeat(api: Api, told: list[Event]) -> None:
    for seen in range(len(told) - 1):
        assert api.all_events(told[-1].data["id"], told[seen].id) == told[seen + 1 :]


def test_who_leaves_in_the_middle_resumes_there(api: Api) -> None:
    job = submit(api, **SIMULATED)
    with api.events(job["id"]) as events:
        seen = [next(events) for _ in range(4)]

    rest = api.all_events(job["id"], seen[-1].id)

    whole = api.all_events(job["id"])
    assert marks(seen + rest) == marks(whole)


def test_who_has_seen_the_end_is_told_to_stop(api: Api, told: list[Event]) -> None:
    job = told[-1].data

    answer = api.get(job["links"]["events"], headers={"Last-Event-ID": told[-1].id})

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["x-job-id"] == job["id"]


@pytest.mark.parametrize("last", ["garbage", "-", "0", "99999999999999999999-0", "1-1; x", "é"])
def test_an_id_that_never_was_begins_from_the_start(api: Api, told: list[Event], last: str) -> None:
    with api.http.get(
        f"{api.url}{told[-1].data['links']['events']}", headers={"Last-Event-ID": last.encode()}, timeout=10
    ) as answer:
        assert answer.text.count("event: ") == len(told)


def test_a_job_that_ended_long_ago_tells_its_end_once(null: Stack, api: Api) -> None:
    job = submit(api)
    ended = api.wait_until_done(job["id"])
    with redis.Redis.from_url(null.settings["SD_REDIS_URL"]) as client:
        assert client.delete(f"{null.prefix}events:{job['id']}") == 1

    (event,) = api.all_events(job["id"])
    again = api.get(job["links"]["events"], headers={"Last-Event-ID": event.id})

    assert (event.type, event.data) == ("done", ended)
    assert again.status_code == 204


def test_the_stream_is_not_held_back_by_proxies(api: Api, told: list[Event]) -> None:
    answer = api.get(told[-1].data["links"]["events"])

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"


def test_one_api_tells_of_a_job_that_was_posted_to_the_other(api: Api, other_api: Api) -> None:
    job = running(api, seconds=0.5)

    events = other_api.all_events(job["id"])

    assert [event.id for event in events] == [event.id for event in api.all_events(job["id"])]
    assert events[-1].data["state"] == "succeeded"


def test_one_api_tells_of_a_cancel_through_the_other(api: Api, other_api: Api) -> None:
    job = submit(api, seconds=20, num_inference_steps=100)
    with other_api.events(job["id"]) as events:
        next(event for event in events if event.type == "progress")

        api.delete(job["links"]["self"])

        assert list(events)[-1].data["state"] == "cancelled"


def test_a_slow_job_shows_what_it_has_so_far(api: Api) -> None:
    job = submit(api, seconds=2.2, num_inference_steps=10)

    previews = [event for event in api.all_events(job["id"]) if event.type == "preview"]

    assert previews
    assert {event.id for event in previews} == {""}
    assert all(event.data["media_type"] == "image/jpeg" for event in previews)
    assert base64.b64decode(previews[0].data["b64_json"]).startswith(b"\xff\xd8\xff")


def test_a_failed_job_ends_its_events_with_the_error(api: Api) -> None:
    ended = api.wait_until_done(submit(api, metadata={"simulate": {"fail": "out-of-memory"}})["id"])

    assert (ended["state"], ended["error"]["code"]) == ("failed", "out-of-memory")


def marks(events: list[Event]) -> list[tuple[str, str]]:
    """What never changes: the place in line that a `queued` event tells is the one at the time of telling."""
    return [(event.id, event.type) for event in events]
