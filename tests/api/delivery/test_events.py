"""GET /api/jobs/{id}/events: the events of a job as they happen."""

import base64

import pytest
import redis

from tests.api.native.test_jobs import running, submit
from tests.stack import Api, Event, Stack

SIMULATED = {"seconds": 0.6, "num_inference_steps": 6}


def kinds(events: list[Event]) -> list[str]:
    return [event.type for event in events]


@pytest.fixture(scope="module")
def recorded(api: Api) -> list[Event]:
    """All events of a job that has ended."""
    return api.all_events(submit(api, **SIMULATED)["id"])


def test_events_cover_the_job_from_start_to_end(api: Api) -> None:
    job = submit(api, **SIMULATED)

    events = api.all_events(job["id"])

    assert kinds(events) == ["state", "state", *["progress"] * (len(events) - 3), "done"]
    assert [event.data["state"] for event in events[:2]] == ["queued", "running"]
    steps = [event.data["step"] for event in events[2:-1]]
    assert steps
    assert steps == sorted(set(steps))
    assert events[-1].data == api.get(job["links"]["self"]).json()


def test_event_ids_increase(recorded: list[Event]) -> None:
    ids = [tuple(map(int, event.id.split("-"))) for event in recorded]

    assert ids == sorted(set(ids))


def test_the_events_of_a_finished_job_can_be_read_again(api: Api, recorded: list[Event]) -> None:
    assert marks(api.all_events(recorded[-1].data["id"])) == marks(recorded)


def test_a_stream_resumes_after_any_event_without_loss_or_repetition(api: Api, recorded: list[Event]) -> None:
    for seen in range(len(recorded) - 1):
        assert api.all_events(recorded[-1].data["id"], recorded[seen].id) == recorded[seen + 1 :]


def test_an_interrupted_stream_resumes_where_it_stopped(api: Api) -> None:
    job = submit(api, **SIMULATED)
    with api.events(job["id"]) as events:
        seen = [next(events) for _ in range(4)]

    remaining = api.all_events(job["id"], seen[-1].id)

    whole = api.all_events(job["id"])
    assert marks(seen + remaining) == marks(whole)


def test_a_client_that_has_seen_the_end_gets_204(api: Api, recorded: list[Event]) -> None:
    job = recorded[-1].data

    answer = api.get(job["links"]["events"], headers={"Last-Event-ID": recorded[-1].id})

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["x-job-id"] == job["id"]


@pytest.mark.parametrize("last", ["garbage", "-", "0", "99999999999999999999-0", "1-1; x", "é"])
def test_an_invalid_event_id_starts_from_the_beginning(api: Api, recorded: list[Event], last: str) -> None:
    with api.http.get(
        f"{api.url}{recorded[-1].data['links']['events']}", headers={"Last-Event-ID": last.encode()}, timeout=10
    ) as answer:
        assert answer.text.count("event: ") == len(recorded)


def test_a_job_with_expired_events_sends_its_end_once(null: Stack, api: Api) -> None:
    job = submit(api)
    ended = api.wait_until_done(job["id"])
    with redis.Redis.from_url(null.settings["SD_REDIS_URL"]) as client:
        assert client.delete(f"{null.prefix}events:{job['id']}") == 1

    (event,) = api.all_events(job["id"])
    again = api.get(job["links"]["events"], headers={"Last-Event-ID": event.id})

    assert (event.type, event.data) == ("done", ended)
    assert again.status_code == 204


def test_headers_keep_proxies_from_buffering_the_stream(api: Api, recorded: list[Event]) -> None:
    answer = api.get(recorded[-1].data["links"]["events"])

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"


def test_events_reach_clients_of_other_api_processes(api: Api, other_api: Api) -> None:
    job = running(api, seconds=0.5)

    events = other_api.all_events(job["id"])

    assert [event.id for event in events] == [event.id for event in api.all_events(job["id"])]
    assert events[-1].data["state"] == "succeeded"


def test_cancellations_reach_clients_of_other_api_processes(api: Api, other_api: Api) -> None:
    job = submit(api, seconds=20, num_inference_steps=100)
    with other_api.events(job["id"]) as events:
        next(event for event in events if event.type == "progress")

        api.delete(job["links"]["self"])

        assert list(events)[-1].data["state"] == "cancelled"


def test_a_slow_job_sends_previews(api: Api) -> None:
    job = submit(api, seconds=2.2, num_inference_steps=10)

    previews = [event for event in api.all_events(job["id"]) if event.type == "preview"]

    assert previews
    assert {event.id for event in previews} == {""}
    assert all(event.data["media_type"] == "image/jpeg" for event in previews)
    assert base64.b64decode(previews[0].data["b64_json"]).startswith(b"\xff\xd8\xff")


def test_the_last_event_of_a_failed_job_has_the_error(api: Api) -> None:
    ended = api.wait_until_done(submit(api, metadata={"simulate": {"fail": "out-of-memory"}})["id"])

    assert (ended["state"], ended["error"]["code"]) == ("failed", "out-of-memory")


def marks(events: list[Event]) -> list[tuple[str, str]]:
    """Ids and types. The queue position in a `queued` event is the one at the time of sending, so it may differ."""
    return [(event.id, event.type) for event in events]
