"""Requests with images, as forms and as JSON."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from shared.jobs.types import Backend
from shared.redis.store import Store, connect
from shared.workers.records import Workers
from tests.api.clients import UNKNOWN_ID
from tests.api.images import PROMPT, encoded, half_mask, post_image, scene
from tests.api.problem import assert_problem, pointers
from tests.stack import Api, Stack
from tests.worker.images.image_checks import Pixels, pixels
from tests.worker.new_jobs import image_bytes
from worker.engines.null import NullEngine

SCENE, MASK = encoded(scene()), encoded(half_mask())


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def result_of(stack: Stack, answer: requests.Response) -> Pixels:
    assert answer.status_code == 200, answer.text
    return pixels(image_bytes(stack, answer.json()))


@pytest.fixture(scope="module")
def reference(null: Stack) -> Pixels:
    """The scene, changed at half strength."""
    return result_of(null, post_image(null.api, SCENE, strength="0.5"))


def test_strength_decides_how_much_an_image_changes(null: Stack, reference: Pixels) -> None:
    untouched, before = result_of(null, post_image(null.api, SCENE, strength="0.001")), np.asarray(scene())

    assert np.abs(untouched.astype(int) - before).max() <= 1
    assert np.abs(reference.astype(int) - before).max() > 30


def test_pixels_outside_the_mask_are_unchanged(null: Stack) -> None:
    changed = result_of(null, post_image(null.api, SCENE, MASK, strength="1"))

    before = np.asarray(scene())
    assert (changed[:, :48] == before[:, :48]).all()
    assert (changed[:, 48:] != before[:, 48:]).any()


def test_the_image_has_the_size_of_the_input_image(null: Stack) -> None:
    job = post_image(null.api, SCENE).json()

    assert (job["request"]["width"], job["request"]["height"]) == (96, 64)
    assert (job["images"][0]["width"], job["images"][0]["height"]) == (96, 64)


def test_fields_may_be_in_the_query(null: Stack, reference: Pixels) -> None:
    url, query = f"{null.api.url}/api/img2img", {**PROMPT, "strength": "0.5"}

    answer = requests.post(url, params=query, files={"image": SCENE}, timeout=60)

    assert (result_of(null, answer) == reference).all()


def test_fields_in_query_and_form_must_agree(null: Stack) -> None:
    assert post_image(null.api, SCENE, query={"seed": "7"}).status_code == 200

    answer = post_image(null.api, SCENE, query={"seed": "8"})
    assert_problem(answer, 422, "invalid-request")
    assert pointers(answer) == ["/seed"]


def test_json_gives_the_same_image_as_a_form(null: Stack, reference: Pixels) -> None:
    body: dict[str, Any] = {"prompt": "x", "seed": 7, "strength": 0.5}
    as_url = f"data:image/png;base64,{base64_of(SCENE)}"
    # One byte more than it needs, so that padding would be due.
    url_safe = base64.urlsafe_b64encode(SCENE + b"-").decode().rstrip("=")

    for path, image in [
        ("/api/txt2img", base64_of(SCENE)),
        ("/api/txt2img", as_url),
        ("/api/img2img", [as_url]),
        ("/api/txt2img", base64.encodebytes(SCENE).decode()),
        ("/api/txt2img", url_safe),
        ("/api/txt2img", f"data:image/png;base64,{url_safe}"),
    ]:
        assert (result_of(null, null.api.post(path, {**body, "image": image})) == reference).all()


def test_jobs_accept_images_too(null: Stack) -> None:
    answer = null.api.post("/api/jobs", {"prompt": "x", "image": base64_of(SCENE), "mask": base64_of(MASK)})

    assert answer.status_code == 202
    assert null.api.wait_until_done(answer.json()["id"])["state"] == "succeeded"


def test_several_images_are_several_parts(null: Stack) -> None:
    names = ["image", "image[]", "image[0]"]
    files = [(name, ("a.png", encoded(scene(32 + 8 * index, 32)))) for index, name in enumerate(names)]

    answer = requests.post(f"{null.api.url}/api/img2img", data=PROMPT, files=files, timeout=60)

    assert len(set(answer.json()["request"]["image"])) == 3


def test_objects_in_a_form_are_json(null: Stack) -> None:
    job = post_image(null.api, SCENE, metadata='{"a": [1, null]}', label="[not] json", width="48").json()

    assert (job["metadata"], job["label"], job["request"]["width"]) == ({"a": [1, None]}, "[not] json", 48)


def test_empty_form_fields_count_as_absent(null: Stack) -> None:
    files: dict[str, Any] = {"image": SCENE, "mask": ("", b"", "application/octet-stream")}
    form = {**PROMPT, "negative_prompt": "", "width": "", "metadata": ""}

    answer = requests.post(f"{null.api.url}/api/img2img", data=form, files=files, timeout=60)

    assert answer.status_code == 200, answer.text
    assert "mask" not in answer.json()["request"]


def test_the_answer_can_be_the_image_itself(null: Stack) -> None:
    answer = requests.post(
        f"{null.api.url}/api/img2img",
        data=PROMPT,
        files={"image": SCENE},
        headers={"accept": "image/webp"},
        timeout=60,
    )

    assert (answer.headers["content-type"], answer.content[8:12]) == ("image/webp", b"WEBP")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_sends_a_form(null: Stack, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(SCENE)
    command = [
        "curl",
        "-sS",
        "-F",
        "image=@in.png",
        "-F",
        "strength=0.4",
        f"{null.api.url}/api/img2img?prompt=x&seed=3",
    ]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)

    job = json.loads(done.stdout)
    assert (job["state"], job["request"]["strength"], job["request"]["seed"]) == ("succeeded", 0.4, 3)


def test_an_idempotency_key_covers_the_image(null: Stack) -> None:
    first, second, other = (
        requests.post(
            f"{null.api.url}/api/img2img",
            data=PROMPT,
            files={"image": image},
            headers={"idempotency-key": "the-scene"},
            timeout=60,
        )
        for image in (SCENE, SCENE, encoded(scene().rotate(180)))
    )

    assert first.json()["id"] == second.json()["id"]
    assert_problem(other, 422, "idempotency-mismatch")


def test_answers_contain_hashes_and_no_input_images(null: Stack) -> None:
    job = post_image(null.api, SCENE, MASK).json()

    shown = null.api.get(f"/api/jobs/{job['id']}")
    assert [reference[:7] for reference in (*job["request"]["image"], job["request"]["mask"])] == ["sha256:"] * 2
    assert shown.json()["request"] == job["request"]
    assert len(shown.content) < 4096


def test_a_job_without_images_has_no_image_fields(null: Stack) -> None:
    job = null.api.post("/api/txt2img", {"prompt": "x"}).json()

    assert not {"image", "mask", "strength"} & set(job["request"])


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"image": "http://169.254.169.254/a.png"}, "/image"),
        ({"image": [base64_of(SCENE), "http://localhost/a.png"]}, "/image/1"),
        ({"image": base64_of(SCENE), "mask": "https://[::1]/a.png"}, "/mask"),
        ({"image": "file:///etc/passwd"}, "/image"),
        ({"image": "https:\\\\example.com"}, "/image"),
        ({"image": [7]}, "/image/0"),
        ({"image": {"a": 1}}, "/image"),
        ({"image": "sha256:" + "0" * 64}, "/image"),
        ({"image": "not base64!"}, "/image"),
        ({"image": f"{base64_of(SCENE)}A"}, "/image"),
        ({"image": f"{UNKNOWN_ID}/0"}, "/image"),
        ({"image": "data:image/png,abc"}, "/image"),
        ({"image": "data:image/png;base64"}, "/image"),
        ({"image": [base64_of(SCENE)] * 5}, "/image"),
        ({"image": [base64_of(SCENE)] * 17}, "/image"),
        ({"mask": base64_of(MASK)}, "/mask"),
        ({"strength": 0.5}, "/strength"),
        ({"image": base64_of(SCENE), "strength": 0}, "/strength"),
        ({"image": base64_of(SCENE), "strength": 1.1}, "/strength"),
        ({"image": base64_of(SCENE), "mask": ["x"]}, "/mask"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_invalid_image_field_is_named(api: Api, fields: dict[str, Any], pointer: str) -> None:
    answer = api.post("/api/jobs", {"prompt": "x", **fields})

    assert_problem(answer, 422, "invalid-request")
    assert pointers(answer) == [pointer]


def test_null_and_empty_images_count_as_absent(null: Stack) -> None:
    images: tuple[object, ...] = (None, [])
    for image in images:
        answer = null.api.post("/api/jobs", {"prompt": "x", "image": image, "mask": None, "strength": None})
        assert answer.status_code == 202


def test_img2img_without_an_image_is_refused(api: Api) -> None:
    for answer in (
        requests.post(f"{api.url}/api/img2img", files={"prompt": (None, "x")}, timeout=30),
        api.post("/api/img2img", {"prompt": "x"}),
    ):
        assert_problem(answer, 422, "invalid-request")
        assert pointers(answer) == ["/image"]


def test_an_image_that_is_not_a_file_part_is_refused(api: Api) -> None:
    parts: list[tuple[dict[str, str], Any]] = [({}, (None, base64_of(SCENE))), ({"image": "x"}, ("a.png", SCENE))]
    for query, part in parts:
        answer = requests.post(f"{api.url}/api/img2img", params={**PROMPT, **query}, files={"image": part}, timeout=30)
        assert_problem(answer, 422, "invalid-request")
        assert pointers(answer) == ["/image"]


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
    ids=str,
)
def test_pages_of_other_sites_cannot_post_forms(api: Api, headers: dict[str, str]) -> None:
    answer = requests.post(f"{api.url}/api/img2img", data=PROMPT, files={"image": SCENE}, headers=headers, timeout=30)

    assert_problem(answer, 403, "forbidden")


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {"origin": ""}])
def test_pages_of_this_service_may_post_forms(api: Api, headers: dict[str, str]) -> None:
    sent = {name: value or api.url for name, value in headers.items()}

    answer = requests.post(f"{api.url}/api/img2img", data=PROMPT, files={"image": SCENE}, headers=sent, timeout=30)

    assert answer.status_code == 200, answer.text


def test_a_backend_without_image_support_names_those_with_it(redis_url: str, tmp_path: Path) -> None:
    with Stack(redis_url, tmp_path, SD_BACKENDS="null,sd") as stack:
        store, workers = Store(connect(redis_url)), Workers(stack.prefix)
        for backend, max_images in ((Backend.SD, 0), (Backend.NULL, 4)):
            capabilities = NullEngine.capabilities.model_copy(update={"max_input_images": max_images})
            store.run(workers.set_capabilities(backend, capabilities))
        api = stack.start_api()

        answer = post_image(api, SCENE, backend="sd")

        assert_problem(answer, 422, "invalid-request")
        assert pointers(answer) == ["/image"]
        assert answer.json()["errors"][0]["detail"] == "null takes no images; null can"
