"""DELETE /api/jobs/{id}?purge=true, and GET /api/jobs/{id}/request to run a job again."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from tests.api.clients import Client
from tests.api.images import encoded, half_mask, scene
from tests.api.native.test_jobs import running, submit
from tests.api.problem import assert_problem
from tests.stack import Api, Stack


def generated(api: Api, **fields: Any) -> dict[str, Any]:
    answer = api.post("/api/txt2img", {"prompt": "x", **fields})
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def pixels(api: Api, job: dict[str, Any]) -> bytes:
    return Image.open(io.BytesIO(api.get(f"{job['links']['self']}/images/0").content)).tobytes()


def test_a_purged_job_is_gone_with_its_images_and_thumbnails(null: Stack) -> None:
    api = null.api
    job, kept = generated(api, width=400, num_images=2), generated(api)
    files = null.find(f"{job['id']}*")

    answer = api.delete(f"{job['links']['self']}?purge=true")

    assert (answer.status_code, answer.content) == (204, b"")
    assert len(files) == 4
    assert null.find(f"{job['id']}*") == []
    assert_problem(api.get(job["links"]["self"]), 404, "job-not-found")
    assert_problem(api.get(f"{job['links']['self']}/images/0"), 404, "job-not-found")
    assert_problem(api.delete(f"{job['links']['self']}?purge=true"), 404, "job-not-found")
    assert job["id"] not in [listed["id"] for listed in api.get("/api/jobs?limit=100").json()["jobs"]]
    assert api.get(f"{kept['links']['self']}/images/0").status_code == 200


def test_a_job_that_has_not_ended_is_not_purged(api: Api) -> None:
    job = running(api)

    assert_problem(api.delete(f"{job['links']['self']}?purge=true"), 409, "invalid-transition")
    assert api.wait_until_done(job["id"])["state"] == "succeeded"


def test_a_pinned_job_is_not_purged(api: Api) -> None:
    job = generated(api)
    api.http.put(f"{api.url}{job['links']['self']}/pin", timeout=10)

    assert_problem(api.delete(f"{job['links']['self']}?purge=true"), 409, "invalid-transition")
    assert api.get(f"{job['links']['self']}/images/0").status_code == 200


def test_a_late_cancellation_deletes_nothing(api: Api) -> None:
    """A client that means to cancel a job that has just ended keeps its images."""
    job = generated(api)

    assert_problem(api.delete(job["links"]["self"]), 409, "invalid-transition")
    assert api.get(f"{job['links']['self']}/images/0").status_code == 200


def test_only_the_owner_may_purge_a_job(alice: Client, bob: Client) -> None:
    job = alice.generate()
    path = f"{job['links']['self']}?purge=true"

    assert_problem(bob.request("DELETE", path), 404, "job-not-found")
    assert alice.get(f"{job['links']['self']}/images/0").status_code == 200
    assert alice.request("DELETE", path).status_code == 204


def test_the_request_of_a_job_makes_the_same_image_again(api: Api) -> None:
    job = generated(api, seed=None, label="castles", metadata={"a": 1}, num_inference_steps=3)

    again = api.get(f"{job['links']['self']}/request").json()
    repeated = api.post("/api/txt2img", again["request"]).json()

    assert again["missing"] == []
    assert repeated["id"] != job["id"]
    assert (repeated["label"], repeated["metadata"]) == ("castles", {"a": 1})
    assert pixels(api, repeated) == pixels(api, job)


def test_input_images_that_are_not_kept_are_missing_from_the_request(api: Api) -> None:
    image, mask = (base64.b64encode(encoded(source)).decode() for source in (scene(), half_mask()))
    job = generated(api, image=image, mask=mask, strength=0.3)

    again = api.get(f"{job['links']['self']}/request").json()

    assert again["missing"] == ["image", "mask"]
    assert not {"image", "mask"} & set(again["request"])
    assert again["request"]["strength"] == 0.3


@pytest.mark.parametrize("path", ["request", "images/0"])
def test_the_request_of_a_job_is_private(alice: Client, bob: Client, path: str) -> None:
    job = alice.submit(webhook_url="https://example.com/hook?token=secret")

    assert_problem(bob.get(f"{job['links']['self']}/{path}"), 404, "job-not-found")
    assert "secret" not in alice.get(f"{job['links']['self']}/request").text


def test_the_request_of_a_queued_job_can_be_read(idle: Stack) -> None:
    job = submit(idle.api)

    assert idle.api.get(f"{job['links']['self']}/request").json()["request"]["prompt"] == "x"
