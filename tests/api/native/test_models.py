"""Models by name: the list, the choice for a request, and names that nothing has."""

from collections.abc import Iterator

import pytest

from shared.jobs.types import Backend
from shared.models import bfl
from shared.models.catalogue import ModelEntry, ModelState
from shared.redis.store import Store, connect
from shared.workers.models import ModelRecords
from shared.workers.records import Workers
from tests.api.problem import assert_problem
from tests.stack import Api, Stack
from tests.support.polling import wait_until


@pytest.fixture(scope="module")
def cloud(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with a local and a cloud backend, and without workers: accepted jobs stay queued."""
    settings = {"SD_BACKENDS": "sd,flux-api", "SD_DEFAULT_BACKEND": "sd", "SD_BFL_API_KEY": "bfl-key"}
    with Stack(redis_url, tmp_path_factory.mktemp("cloud"), **settings) as stack:
        yield stack.start_api()


@pytest.fixture(scope="module")
def published(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API that allows only models for commercial use, and two thousand models without a worker."""
    settings = {"SD_BACKENDS": "sd", "SD_COMMERCIAL_ONLY": "true"}
    with Stack(redis_url, tmp_path_factory.mktemp("published"), **settings) as stack:
        capabilities = bfl.MODELS["flux-dev"]
        many = [
            ModelEntry(
                name=f"folder/model-{number:04}",
                backend=Backend.SD,
                commercial_use=True,
                capabilities=capabilities.model_copy(update={"model": f"folder/model-{number:04}"}),
            )
            for number in range(2000)
        ]
        others = [
            ModelEntry(name="hobby", backend=Backend.SD, commercial_use=False, licence="non-commercial"),
            ModelEntry(name="unknown", backend=Backend.SD),
            ModelEntry(name="half", backend=Backend.SD, state=ModelState.DOWNLOADING, reason="It is being copied."),
        ]
        store, records = Store(connect(redis_url)), ModelRecords(stack.prefix)
        store.run(records.publish(Backend.SD, "here", [*many, *others], is_complete=True))
        store.run(Workers(stack.prefix).set_capabilities(Backend.SD, many[0].capabilities or capabilities))
        yield stack.start_api()


def test_two_thousand_models_are_listed_and_chosen(published: Api) -> None:
    models = published.get("/api/models").json()["models"]
    job = published.post("/api/jobs", {"prompt": "x", "model": "folder/model-1234"}).json()
    near = published.post("/api/jobs", {"prompt": "x", "model": "folder/modell-1234"})

    assert len(models) == 2003
    assert (job["state"], job["model"]) == ("queued", "folder/model-1234")
    assert_problem(near, 404, "model-not-found")
    assert "folder/model-1234" in near.json()["detail"]


@pytest.mark.parametrize("name", ["hobby", "unknown"])
def test_a_model_that_is_not_for_commercial_use_is_refused(published: Api, name: str) -> None:
    answer = published.post("/api/jobs", {"prompt": "x", "model": name})

    assert_problem(answer, 403, "licence-forbidden")


def test_a_model_that_cannot_be_used_says_what_is_missing(published: Api) -> None:
    answer = published.post("/api/jobs", {"prompt": "x", "model": "half"})

    assert_problem(answer, 503, "model-unavailable")
    assert "It is being copied." in answer.json()["detail"]
    assert answer.headers["retry-after"]


def test_a_model_is_listed_with_its_state_defaults_and_limits(api: Api) -> None:
    # A worker reports within a moment that it is ready.
    wait_until(lambda: api.get("/api/models/null").json()["state"] == "loaded")
    (model,) = [model for model in api.get("/api/models").json()["models"] if model["name"] == "null"]

    assert (model["name"], model["backend"], model["is_default"]) == ("null", "null", True)
    assert model["defaults"] == {
        "width": 64,
        "height": 64,
        "num_inference_steps": 4,
        "guidance_scale": 0.0,
        "strength": 0.5,
    }
    assert (model["limits"]["max_side"], model["supports"]["mask"], model["supports"]["loras"]) == (4096, True, False)
    assert len(model["workers"]) == 1


def test_one_model_has_the_schema_of_its_requests(api: Api) -> None:
    model = api.get("/api/models/null").json()

    assert model["capabilities"]["properties"]["width"]["maximum"] == 4096


def test_a_model_of_the_cloud_is_offered_without_a_worker(cloud: Api) -> None:
    models = {model["name"]: model for model in cloud.get("/api/models").json()["models"]}

    assert models.keys() == bfl.MODELS.keys()
    assert {model["state"] for model in models.values()} == {"available"}
    assert [name for name, model in models.items() if model["is_default"]] == [bfl.DEFAULT_MODEL]


@pytest.mark.parametrize("field", ["model", "bfl_model"])
def test_a_model_chooses_its_backend(cloud: Api, field: str) -> None:
    job = cloud.post("/api/jobs", {"prompt": "x", field: "flux-2-flex"}).json()

    assert (job["backend"], job["request"][field]) == ("flux-api", "flux-2-flex")


def test_a_request_is_checked_against_the_model_that_it_names(cloud: Api) -> None:
    answer = cloud.post("/api/jobs", {"prompt": "x", "model": "flux-2-flex", "num_inference_steps": 51})

    assert_problem(answer, 422, "invalid-request")
    assert "flux-2-flex" in answer.json()["detail"]


def test_an_unknown_name_is_answered_with_near_ones(cloud: Api) -> None:
    answer = cloud.post("/api/jobs", {"prompt": "x", "backend": "flux-api", "model": "FLUX-2-Flexx"})

    assert_problem(answer, 404, "model-not-found")
    assert "perhaps you mean flux-2-flex" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["../null", "..%2f..%2fetc%2fpasswd", "nul%00l", "x/load", "%ff", "a" * 5000])
def test_any_other_name_is_not_found(api: Api, name: str) -> None:
    answer = api.get(f"/api/models/{name}")

    assert answer.status_code == 404
    assert_problem(answer, 404, answer.json()["code"])


def test_a_request_with_an_unknown_model_never_becomes_a_job(api: Api) -> None:
    answer = api.post("/api/txt2img", {"prompt": "x", "backend": "null", "model": "../../etc/passwd"})

    assert_problem(answer, 404, "model-not-found")
    assert "etc" not in answer.text


def test_the_job_names_its_model(api: Api) -> None:
    job = api.post("/api/txt2img", {"prompt": "x", "model": "null"}).json()

    assert (job["state"], job["model"], job["request"]["model"]) == ("succeeded", "null", "null")
    assert job["warnings"] == []


def test_two_different_spellings_are_refused(cloud: Api) -> None:
    answer = cloud.post("/api/jobs", {"prompt": "x", "model": "flux-2-flex", "bfl_model": "flux-2-max"})

    assert_problem(answer, 422, "invalid-request")


def test_a_local_backend_ignores_a_cloud_model_in_the_old_spelling(api: Api) -> None:
    job = api.post("/api/txt2img", {"prompt": "x", "backend": "null", "bfl_model": "flux-2-max"}).json()

    assert (job["model"], job["warnings"]) == ("null", ["bfl_model is ignored: null does not support it"])


def test_both_spellings_are_one_request_for_an_idempotency_key(cloud: Api) -> None:
    headers = {"Idempotency-Key": "one-model"}

    first, second = (
        cloud.post("/api/jobs", {"prompt": "x", field: "flux-2-max"}, headers=headers).json()["id"]
        for field in ("bfl_model", "model")
    )

    assert first == second
