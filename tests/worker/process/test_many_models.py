"""Many models on real workers: loaded by need, evicted for room, and told to clients."""

import io
import itertools
import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend
from shared.models.catalogue import ModelEntry, ModelState
from shared.redis.store import Store, connect
from shared.workers.models import ChangedEntry, ModelRecords
from tests.api.problem import assert_problem
from tests.stack import Api, Stack
from tests.support.polling import wait_until
from tests.worker.recording_watch import RecordingWatch
from tests.worker.worker_records import most_model_bytes, worker_records
from worker.engines.null import MODEL_BYTES, NullEngine
from worker.images.values import Inputs, Pixels

FAST = ("null", "null/red", "null/green", "null/blue")
AFFINITY_SECONDS = 2
#: A job or a load that has started is not interrupted.
BUSY_SECONDS = 3.0
#: Or this many times the slowest load or batch of the run, which is long on a busy machine: one for each model.
SLOWEST_LOADS = 5
#: Jobs of one batch start at the same time, but for this, or a quarter of the slowest load or batch of the run.
CLAIM_SECONDS = 0.3


@pytest.fixture(scope="module")
def many(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A worker with room for two models."""
    settings = {
        "SD_BACKENDS": "null",
        "SD_MODEL_MEMORY_BYTES": str(2 * MODEL_BYTES),
        "SD_MODEL_AFFINITY_SECONDS": str(AFFINITY_SECONDS),
    }
    with Stack(redis_url, tmp_path_factory.mktemp("many"), **settings) as stack:
        stack.start_worker("null")
        stack.start_api()
        yield stack


def model_of(api: Api, name: str) -> dict[str, Any]:
    model: dict[str, Any] = api.get(f"/api/models/{name}").json()
    return model


def pixels_of(api: Api, job: dict[str, Any]) -> Pixels:
    content = api.get(f"/api/jobs/{job['id']}/images/0").content
    return np.asarray(Image.open(io.BytesIO(content)))


def expected_pixels(model: str, seed: int) -> Pixels:
    engine = NullEngine(model)
    request, _ = engine.capabilities.resolve(GenerationRequest(prompt="x", seed=seed))
    (image,) = engine.generate(request, Inputs(), RecordingWatch())
    return image.pixels


def loads(api: Api) -> int:
    """How many models were loaded so far."""
    lines = api.get("/metrics").text.splitlines()
    (count,) = [line for line in lines if line.startswith('imagegen_model_load_seconds_count{backend="null"}')]
    return int(float(count.split()[-1]))


def test_every_model_is_offered_before_it_is_loaded(many: Stack) -> None:
    models = {model["name"]: model for model in many.api.get("/api/models").json()["models"]}

    assert models.keys() >= {*FAST, "null/slow", "null/broken"}
    assert models["null/blue"]["state"] == "available"
    assert models["null"]["is_default"]


def test_a_job_names_the_model_that_made_its_image(many: Stack) -> None:
    job = many.api.post("/api/txt2img", {"prompt": "x", "seed": 1, "model": "null/red"}).json()

    assert job["model"] == "null/red"
    assert job["model_revision"]
    assert (pixels_of(many.api, job) == expected_pixels("null/red", 1)).all()
    assert not (pixels_of(many.api, job) == expected_pixels("null", 1)).all()
    wait_until(lambda: model_of(many.api, "null/red")["state"] == "loaded")


def test_a_job_that_waits_for_a_load_says_so(many: Stack) -> None:
    api, seen = many.api, list[dict[str, Any]]()
    job = api.post("/api/jobs", {"prompt": "x", "model": "null/slow"}).json()

    with api.events(job["id"]) as events:
        types = []
        for event in events:
            types.append(event.type)
            if event.type == "loading" and not seen:
                wait_until(lambda: model_of(api, "null/slow")["state"] != "available")
                seen = [api.get(f"/api/jobs/{job['id']}").json(), api.get("/health").json()]

    waiting, health = seen
    assert (waiting["state"], waiting["waiting_for"]) == ("queued", "loading")
    assert waiting["loading"]["bytes_total"] == MODEL_BYTES
    assert health["loading"]["null"][0]["model"] == "null/slow"
    assert types.index("loading") < types.index("done")
    assert api.get(f"/api/jobs/{job['id']}").json()["waiting_for"] is None


def test_a_model_that_cannot_be_loaded_fails_only_its_own_jobs(many: Stack) -> None:
    broken = many.api.post("/api/txt2img", {"prompt": "x", "model": "null/broken"})
    fine = many.api.post("/api/txt2img", {"prompt": "x", "model": "null/green"})

    assert_problem(broken, 503, "model-unavailable")
    assert broken.headers["x-job-id"]
    assert fine.status_code == 200
    assert len(worker_records(many)) == 1


def test_an_unknown_model_is_answered_with_near_names(many: Stack) -> None:
    answer = many.api.post("/api/txt2img", {"prompt": "x", "model": "null/rad"})

    assert_problem(answer, 404, "model-not-found")
    assert "null/red" in answer.json()["detail"]


def test_sixty_jobs_over_five_models_get_their_pixels_with_few_loads(many: Stack) -> None:
    api, before, chance = many.api, loads(many.api), random.Random(7)
    models = [chance.choice([*FAST, "null/slow"]) for _ in range(60)]

    jobs = [
        api.post("/api/jobs", {"prompt": "x", "seed": seed, "model": model}).json() for seed, model in enumerate(models)
    ]
    most_bytes = most_model_bytes(many, jobs[-1:])
    done = [api.wait_until_done(job["id"]) for job in jobs]

    for seed, (job, model) in enumerate(zip(done, models, strict=True)):
        assert (job["state"], job["model"]) == ("succeeded", model)
        assert (pixels_of(api, job) == expected_pixels(model, seed)).all()
    assert loads(api) - before <= 25
    assert most_bytes <= 2 * MODEL_BYTES
    assert overtaken_too_long(done, AFFINITY_SECONDS) == []


def overtaken_too_long(
    jobs: list[dict[str, Any]], affinity_seconds: float, busy_seconds: float = BUSY_SECONDS
) -> list[tuple[int, int]]:
    """Jobs after which a later one of another model started, longer than allowed after the first one that did.

    Jobs that were claimed together with one that was accepted before count as that one.
    """
    starts = [datetime.fromisoformat(job["started_at"]).timestamp() for job in jobs]
    slowest = max(later - earlier for earlier, later in itertools.pairwise(sorted(starts)))
    seconds = affinity_seconds + max(busy_seconds, SLOWEST_LOADS * slowest)
    claim_seconds = max(CLAIM_SECONDS, slowest / 4)

    def claimed_with_earlier(later: int, job: int) -> bool:
        return any(
            jobs[other]["model"] == jobs[later]["model"] and abs(starts[other] - starts[later]) < claim_seconds
            for other in range(job)
        )

    found = []
    for job, start in enumerate(starts):
        overtaking = [later for later in range(job + 1, len(jobs)) if starts[later] < start]
        due = min((starts[later] for later in overtaking), default=start) + seconds
        for later in overtaking:
            is_other = jobs[later]["model"] != jobs[job]["model"]
            if is_other and starts[later] > due and not claimed_with_earlier(later, job):
                found.append((job, later))
    return found


def test_an_operator_loads_pins_and_unloads(many: Stack) -> None:
    api = many.api

    assert api.http.put(f"{api.url}/api/models/null/blue/pin", timeout=10).json()["pinned"]
    # A worker hears of it within a second.
    wait_until(lambda: any(model.pinned for model in worker_records(many)[0].models))
    # Two others would need its room.
    for name in ("null/red", "null/green"):
        assert api.post("/api/txt2img", {"prompt": "x", "model": name}).status_code == 200
    assert api.post("/api/models/null/blue/unload", {}).status_code == 202
    wait_until(lambda: worker_records(many)[0].models[0].name == "null/green")
    assert model_of(api, "null/blue")["state"] == "loaded"

    assert api.delete("/api/models/null/blue/pin").status_code == 200
    wait_until(lambda: not model_of(api, "null/blue")["pinned"])
    wait_until(lambda: not any(model.pinned for model in worker_records(many)[0].models))
    assert api.post("/api/models/null/blue/unload", {}).status_code == 202
    wait_until(lambda: model_of(api, "null/blue")["state"] == "available")
    assert api.post("/api/models/null/blue/load", {}).status_code == 202
    wait_until(lambda: model_of(api, "null/blue")["state"] == "loaded")


def test_a_caller_that_does_not_want_to_wait_for_a_load_comes_back(many: Stack) -> None:
    api = many.api
    api.post("/api/models/null/slow/unload", {})
    wait_until(lambda: model_of(api, "null/slow")["state"] == "available")

    headers = {"x-wait-for-model": "false"}
    first = api.post("/models/null/slow", {"inputs": "x"}, headers=headers)

    assert (first.status_code, first.json()["code"]) == (503, "model-loading")
    assert first.headers["retry-after"]
    wait_until(lambda: model_of(api, "null/slow")["state"] == "loaded")
    assert api.post("/models/null/slow", {"inputs": "x"}, headers=headers).status_code == 200


def test_only_the_scope_admin_manages_models(redis_url: str, tmp_path: Any) -> None:
    keys = "one:0123456789abcdefghij,boss:abcdefghij0123456789:admin"
    with Stack(redis_url, tmp_path, SD_BACKENDS="null", SD_API_KEY=keys) as stack:
        stack.start_worker("null")
        api = stack.start_api()
        statuses = {}
        for name, key in (("one", "0123456789abcdefghij"), ("boss", "abcdefghij0123456789")):
            api.http.headers["X-API-Key"] = key
            statuses[name] = api.post("/api/models/null/red/load", {}).status_code

    assert statuses == {"one": 403, "boss": 202}


def test_two_workers_settle_on_a_model_each(redis_url: str, tmp_path: Any) -> None:
    settings = {"SD_BACKENDS": "null", "SD_MODEL_MEMORY_BYTES": str(MODEL_BYTES)}
    with Stack(redis_url, tmp_path, **settings) as stack:
        api = stack.start_api()
        simulated = {"simulate": {"seconds": 0.05}}
        jobs = [
            api.post("/api/jobs", {"prompt": "x", "backend": "null", "model": model, "metadata": simulated}).json()
            for model in random.Random(3).choices(["null/red", "null/green"], k=40)
        ]
        for _ in range(2):
            stack.start_worker("null", ready=False)
        assert all(api.wait_until_done(job["id"])["state"] == "succeeded" for job in jobs)

        # Each has loaded the default model at its start and one more; at the end, one may help the other.
        assert loads(api) <= 2 + 2 + 2


def test_a_job_is_left_to_the_machine_that_has_its_model(redis_url: str) -> None:
    store, records = Store(connect(redis_url)), ModelRecords("machines:")
    entries = [ModelEntry(name="theirs", backend=Backend.SD)]
    entries.append(ModelEntry(name="broken", backend=Backend.SD, state=ModelState.BROKEN))
    store.run(records.publish(Backend.SD, "there", entries, is_complete=True))
    store.run(records.publish(Backend.SD, "here", [ModelEntry(name="ours", backend=Backend.SD)], is_complete=True))

    found = {name: store.run(records.is_elsewhere(Backend.SD, "here", name)) for name in ("theirs", "broken", "ours")}

    assert found == {"theirs": True, "broken": False, "ours": False}


def test_the_api_reads_only_what_changed_of_a_large_catalogue(redis_url: str) -> None:
    store, records = Store(connect(redis_url)), ModelRecords("large:")
    entries = [ModelEntry(name=f"model {number:04}", backend=Backend.SD) for number in range(2000)]
    assert not store.run(records.publish(Backend.SD, "here", entries[:1], is_complete=False))
    assert store.run(records.publish(Backend.SD, "here", entries, is_complete=True))

    seen, cursor = list[ChangedEntry](), (0, "")
    while changes := store.run(records.read_changes(Backend.SD, "here", *cursor)):
        seen += changes
        cursor = changes[-1].version, changes[-1].name
    assert [change.entry for change in seen] == entries

    changed = entries[7].model_copy(update={"title": "new"})
    store.run(records.publish(Backend.SD, "here", [changed], [entries[3].name], is_complete=False))
    assert {(change.name, change.entry) for change in store.run(records.read_changes(Backend.SD, "here", *cursor))} == {
        (changed.name, changed),
        (entries[3].name, None),
    }
