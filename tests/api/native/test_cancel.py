"""DELETE /api/jobs/{id}."""

import asyncio
from datetime import UTC, datetime
from typing import TypeVar

import pytest

from api.intake.admission import cancel_job
from api.services import Services
from shared.jobs.operations import ProgressReply
from shared.jobs.states import State
from shared.observability.tracing import Tracing
from shared.redis.store import AsyncStore, Operation, Store, async_connections, connect
from shared.settings.api import ApiSettings
from tests.api.native.test_jobs import running, submit
from tests.api.problem import assert_problem
from tests.api.waiting import WaitingCaller
from tests.stack import Api, Stack

T = TypeVar("T")


def test_a_cancelled_queued_job_never_starts(null: Stack, api: Api) -> None:
    running(api)
    job = submit(api)

    answer = api.delete(job["links"]["self"])

    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert answer.headers["x-job-id"] == job["id"]
    # The worker receives its message before that of a later job.
    api.wait_until_done(submit(api)["id"])
    ended = api.get(job["links"]["self"]).json()
    assert (ended["state"], ended["attempt"], ended["started_at"]) == ("cancelled", 0, None)
    assert [event.data.get("state") for event in api.all_events(job["id"])] == ["queued", "cancelled"]


def test_a_cancelled_running_job_ends_at_its_next_step_without_an_image(null: Stack, api: Api) -> None:
    job = running(api, seconds=60, num_inference_steps=150)

    answer = api.delete(job["links"]["self"])

    ended = api.wait_until_done(job["id"])
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    assert (ended["state"], ended["images"], ended["error"]) == ("cancelled", [], None)
    assert ended["timings"]["total_ms"] < 30_000
    assert null.find(f"*{job['id']}*") == []


def test_a_running_job_can_be_cancelled_twice(api: Api) -> None:
    job = running(api, seconds=20, num_inference_steps=100)

    answers = [api.delete(job["links"]["self"]) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert api.wait_until_done(job["id"])["state"] == "cancelled"


def test_a_job_that_starts_during_its_cancellation_is_cancelled(stack: Stack) -> None:
    url = stack.settings["SD_REDIS_URL"]
    settings = ApiSettings(redis_url=url, redis_prefix=stack.prefix, output_dir=stack.outputs, backends="null")
    job_id, worker = submit(stack.start_api())["id"], Store(connect(url))

    async def cancelled() -> State:
        services = Services(settings, Tracing())

        class Raced(AsyncStore):
            async def run(self, operation: Operation[T]) -> T:
                result = await super().run(operation)
                if operation.script == "jobs/request_cancel" and result is State.QUEUED:
                    queued = worker.run(services.jobs.read(job_id))
                    assert queued is not None
                    started = queued.job.start("null", "a-worker", datetime.now(UTC))
                    assert worker.run(services.jobs.move(queued.job, started))
                return result

        services.store = store = Raced(async_connections(url))
        snapshot = await cancel_job(services, job_id)
        await store.aclose()
        assert worker.run(services.jobs.report_progress(snapshot.job, None, "")) is ProgressReply.CANCEL
        return snapshot.job.state

    assert asyncio.run(cancelled()) is State.RUNNING


@pytest.mark.parametrize(
    ("simulate", "sentence"),
    [({}, "The job has already succeeded."), ({"fail": "out-of-memory"}, "The job has already failed.")],
)
def test_an_ended_job_cannot_be_cancelled(api: Api, simulate: dict[str, str], sentence: str) -> None:
    job = submit(api, metadata={"simulate": simulate})
    before = api.wait_until_done(job["id"])

    answer = api.delete(job["links"]["self"])

    assert_problem(answer, 409, "invalid-transition")
    assert answer.json()["detail"] == sentence
    assert answer.headers["x-job-id"] == job["id"]
    assert api.get(job["links"]["self"]).json() == before


def test_a_waiting_caller_gets_the_job_that_another_api_cancelled(null: Stack, api: Api, other_api: Api) -> None:
    with WaitingCaller(null, other_api, seconds=20) as waiting:
        api.delete(waiting.job["links"]["self"])

        answer = waiting.answer()

    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
