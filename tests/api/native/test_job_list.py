"""GET /api/jobs: newest first, filtered, page by page."""

import uuid
from typing import Any

import redis

from tests.api.native.test_jobs import submit
from tests.stack import Api, Stack


def pages(api: Api, query: str) -> list[list[str]]:
    """The ids of every page."""
    found, cursor = [], ""
    while True:
        page = api.get(f"/api/jobs?{query}{cursor}").json()
        found.append([job["id"] for job in page["jobs"]])
        if page["cursor"] is None:
            return found
        cursor = f"&cursor={page['cursor']}"


def ids(jobs: list[dict[str, Any]]) -> list[str]:
    return [job["id"] for job in jobs]


def test_jobs_are_listed_newest_first(idle: Stack) -> None:
    jobs = [submit(idle.api) for _ in range(3)]

    listed = idle.api.get("/api/jobs?limit=3").json()["jobs"]

    assert ids(listed) == ids(jobs)[::-1]
    assert listed[0] == idle.api.get(jobs[2]["links"]["self"]).json()


def test_pages_neither_repeat_nor_miss_a_job(idle: Stack) -> None:
    label = str(uuid.uuid4())
    jobs = [submit(idle.api, label=label) for _ in range(5)]

    found = pages(idle.api, f"label={label}&limit=2")

    assert [job for page in found for job in page] == ids(jobs)[::-1]
    assert max(map(len, found)) == 2


def test_a_job_that_comes_between_two_pages_shifts_nothing(idle: Stack) -> None:
    label = str(uuid.uuid4())
    jobs = [submit(idle.api, label=label) for _ in range(3)]
    first = idle.api.get(f"/api/jobs?label={label}&limit=2").json()
    submit(idle.api, label=label)

    second = idle.api.get(f"/api/jobs?label={label}&limit=2&cursor={first['cursor']}").json()

    assert ids(second["jobs"]) == [jobs[0]["id"]]


def test_filters_combine(idle: Stack) -> None:
    label = f"a label: {uuid.uuid4()} & é/*"
    wanted = submit(idle.api, label=label)
    cancelled = submit(idle.api, label=label)
    idle.api.delete(cancelled["links"]["self"])
    elsewhere = submit(idle.api, label=label, backend="sd")
    submit(idle.api)

    def listed(**filters: str) -> list[str]:
        return ids(idle.api.get("/api/jobs", params=filters).json()["jobs"])

    assert listed(label=label) == ids([elsewhere, cancelled, wanted])
    assert listed(label=label, state="queued") == ids([elsewhere, wanted])
    assert listed(label=label, state="queued", backend="null") == [wanted["id"]]
    assert listed(label=label, backend="sd") == [elsewhere["id"]]
    assert listed(state="cancelled", backend="null")[0] == cancelled["id"]
    assert listed(state="running") == []
    assert listed(label="nobody's") == []


def test_a_job_moves_from_one_states_list_to_the_next(api: Api) -> None:
    job = submit(api)
    api.wait_until_done(job["id"])

    holding = [
        state
        for state in ("queued", "running", "succeeded", "failed", "cancelled")
        if job["id"] in ids(api.get(f"/api/jobs?state={state}&limit=100").json()["jobs"])
    ]

    assert holding == ["succeeded"]


def test_records_that_are_gone_leave_the_lists(idle: Stack) -> None:
    label = str(uuid.uuid4())
    jobs = [submit(idle.api, label=label) for _ in range(3)]
    with redis.Redis.from_url(idle.settings["SD_REDIS_URL"]) as client:
        client.delete(f"{idle.prefix}job:{jobs[1]['id']}")

    found = pages(idle.api, f"label={label}&limit=1")

    assert [job for page in found for job in page] == [jobs[2]["id"], jobs[0]["id"]]


def test_a_list_without_jobs_is_empty(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null")

    assert api.get("/api/jobs").json() == {"jobs": [], "cursor": None}
