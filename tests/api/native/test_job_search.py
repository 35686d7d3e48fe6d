"""GET /api/jobs with `q`, `model` and `pinned`."""

import uuid
from datetime import UTC, datetime

import pytest

from api.delivery.job_search import MAX_CALLS, RECORDS_PER_CALL
from shared.jobs.job import Job
from shared.jobs.requests import GenerationRequest
from shared.jobs.search import JobSearch
from shared.jobs.snapshots import dump_job
from shared.jobs.types import Backend
from tests.api.clients import Client
from tests.api.many_jobs import copy_job
from tests.api.native.test_job_list import ids, pages
from tests.api.native.test_jobs import submit
from tests.stack import Api, Stack


def found(api: Api, **query: str) -> list[str]:
    return ids(api.get("/api/jobs", params=query).json()["jobs"])


def make(prompt: str, label: str | None = None, model: str | None = None) -> Job:
    job = Job.new(GenerationRequest(prompt=prompt, label=label), Backend.NULL, datetime.now(UTC))
    return job.model_copy(update={"model": model})


@pytest.mark.parametrize(
    ("search", "job", "is_match"),
    [
        (JobSearch("red HEART"), make("A heart, red on blue"), True),
        (JobSearch("äpfel straße"), make("ÄPFEL in der STRASSE"), True),
        (JobSearch("red heart"), make("a red house", label="Heart"), True),
        (JobSearch("red heart"), make("a red house"), False),
        (JobSearch('say "hi" \\'), make('they say "hi" with \\ and\nlines'), True),
        (JobSearch("succeeded queued prompt"), make("x"), False),
        (JobSearch("  "), make("x"), True),
        (JobSearch(model="starter"), make("x", model="starter"), True),
        (JobSearch(model="starter"), make("starter", model="other"), False),
        (JobSearch("heart", "Starter/É"), make("heart", model="Starter/É"), True),
    ],
)
def test_a_search_finds_every_word_in_prompt_or_label(search: JobSearch, job: Job, is_match: bool) -> None:
    doc = dump_job(job)

    assert (search.may_match(doc) and search.matches(job)) is is_match
    assert search.may_match(doc) or not is_match


def test_a_search_covers_prompts_and_labels_whatever_the_case(idle: Stack) -> None:
    word = uuid.uuid4().hex
    by_prompt = submit(idle.api, prompt=f"A castle of {word.upper()} at dawn")
    by_label = submit(idle.api, label=f"{word} castle")
    submit(idle.api, prompt=f"a house of {word}")

    assert found(idle.api, q=f"castle {word}") == ids([by_label, by_prompt])
    assert found(idle.api, q=f"castle {word}", state="succeeded") == []


def test_pages_of_a_search_neither_repeat_nor_miss_a_job(idle: Stack) -> None:
    word = uuid.uuid4().hex
    jobs = [submit(idle.api, prompt=f"{word} {number}") for number in range(5)]
    submit(idle.api)

    found_pages = pages(idle.api, f"q={word}&limit=2")

    assert [job for page in found_pages for job in page] == ids(jobs)[::-1]


def test_a_search_by_model_finds_what_it_made(api: Api) -> None:
    label = uuid.uuid4().hex
    job = api.post("/api/txt2img", {"prompt": "x", "label": label}).json()

    assert found(api, model="null", label=label) == [job["id"]]
    assert found(api, model="another", label=label) == []


def test_pinned_jobs_are_listed_until_they_are_unpinned(api: Api) -> None:
    pinned, other = submit(api), submit(api)
    path = f"{api.url}/api/jobs/{pinned['id']}/pin"
    api.http.put(path, timeout=10)

    listed = found(api, pinned="true")
    api.http.delete(path, timeout=10)

    assert pinned["id"] in listed
    assert other["id"] not in listed
    assert pinned["id"] not in found(api, pinned="true")


def test_a_search_sees_only_jobs_of_the_key(alice: Client, bob: Client, admin: Client) -> None:
    word = uuid.uuid4().hex
    job = alice.submit(prompt=word)
    alice.request("PUT", f"{job['links']['self']}/pin")

    assert alice.job_ids(q=word, pinned="true") == [job["id"]]
    assert admin.job_ids(q=word) == [job["id"]]
    assert bob.job_ids(q=word) == []
    assert job["id"] not in bob.job_ids(pinned="true")


def test_a_search_without_a_match_reads_a_bounded_number_of_records(stack: Stack) -> None:
    """And goes on from there with the cursor."""
    api = stack.start_api(SD_BACKENDS="null", SD_MAX_QUEUED_JOBS="10000")
    first = submit(api, prompt="needle")
    copy_job(stack, first["id"], RECORDS_PER_CALL * MAX_CALLS, prompt="hay")

    page = api.get("/api/jobs?q=needle").json()

    assert (page["jobs"], page["cursor"] is None) == ([], False)
    rest = api.get(f"/api/jobs?q=needle&cursor={page['cursor']}").json()
    assert (ids(rest["jobs"]), rest["cursor"]) == ([first["id"]], None)
