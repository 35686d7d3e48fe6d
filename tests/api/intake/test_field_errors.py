"""Errors of fields are explained in words that need no knowledge of Python."""

import re
from typing import Any

import pytest
import requests

from tests.api.images import noise_png
from tests.api.problem import assert_problem, pointers
from tests.stack import Api

#: Wording of libraries.
LIBRARY_WORDS = re.compile(
    r"[Ii]nput should|[Vv]alue |validation|dictionary|tuple|valid (string|integer|number)|UTF-8|NoneType"
)


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"prompt": ""}, "prompt must not be empty."),
        ({"prompt": None}, "prompt must be text."),
        ({"prompt": "x" * 4001}, "prompt may have at most 4000 characters."),
        ({"prompt": "\0"}, "prompt must not contain control characters, except tabs and line breaks."),
        ({"width": "wide"}, "width must be a whole number."),
        ({"width": 64.5}, "width must be a whole number."),
        ({"width": 15}, "width must be at least 16."),
        ({"width": 10**30}, "width may be at most 8192."),
        ({"guidance_scale": "much"}, "guidance_scale must be a number."),
        ({"guidance_scale": 101}, "guidance_scale may be at most 100."),
        ({"backend": "dall-e"}, "backend must be sd, flux-local, flux-api or null."),
        ({"priority": 1}, "priority must be high, normal or low."),
        ({"webhook_inline_images": "maybe"}, "webhook_inline_images must be true or false."),
        ({"metadata": []}, "metadata must be an object."),
        ({"metadata": {"x": "x" * 2048}}, "metadata may take at most 2048 bytes as JSON."),
        ({"loras": "ink"}, "loras must be a list."),
        ({"loras": [{"scale": 1}]}, "loras[0].name is missing."),
        ({"loras": [{"name": "ink", "weight": 1}]}, "loras[0].weight is not a known field; perhaps you mean scale."),
        ({"loras": [{"name": "ink"}] * 6}, "loras may have at most 5 entries."),
        ({"strength": 0.5}, "strength needs an image."),
        ({"promt": "x"}, "promt is not a known field; perhaps you mean prompt."),
        ({"steps": 4}, "steps is not a known field; perhaps you mean num_inference_steps."),
        ({"é": 4}, "The request has an unknown field."),
        ({"webhook_events": ["started"]}, "webhook_events and webhook_inline_images need a webhook_url."),
    ],
    ids=str,
)
def test_the_first_invalid_field_is_explained_in_plain_words(api: Api, fields: dict[str, Any], detail: str) -> None:
    answer = api.post("/api/jobs", {"prompt": "x", **fields})

    assert_problem(answer, 422, "invalid-request")
    assert answer.json()["detail"] == detail
    assert not LIBRARY_WORDS.search(answer.text)


def test_a_limit_of_a_model_is_explained_with_its_name(api: Api) -> None:
    answer = api.post("/api/jobs", {"prompt": "x", "guidance_scale": 99})

    assert answer.json()["detail"] == "The null model cannot make this image: guidance_scale must be between 0 and 50."


def test_a_body_that_is_not_an_object_is_explained(api: Api) -> None:
    bodies: tuple[object, ...] = ([], "x", 7)

    details = [api.post("/api/jobs", body).json()["detail"] for body in bodies]

    assert details == ["The body must be a JSON object."] * 3


def test_a_missing_prompt_is_explained(api: Api) -> None:
    assert api.post("/api/jobs", {}).json()["detail"] == "prompt is missing."


def test_an_invalid_query_parameter_is_explained(api: Api) -> None:
    answers = [
        api.get("/api/jobs", params=query).json() for query in ({"limit": 0}, {"state": "done"}, {"cursor": "x"})
    ]

    assert [answer["detail"] for answer in answers] == [
        "limit must be at least 1.",
        "state must be queued, running, succeeded, failed or cancelled.",
        "cursor has an invalid format.",
    ]


@pytest.mark.parametrize("url", ["http://127.0.0.1:5678/x", "http://n8n:5678/x", "https://example.com:8443/x"])
def test_a_refused_webhook_url_names_the_setting_that_allows_it(api: Api, url: str) -> None:
    answer = api.post("/api/jobs", {"prompt": "x", "webhook_url": url})

    assert pointers(answer) == ["/webhook_url"]
    assert answer.json()["detail"].endswith("The operator can allow it in SD_WEBHOOK_ALLOW.")


@pytest.mark.parametrize("name", ["file", "data", "init_image", "photo"])
@pytest.mark.parametrize("file_name", ["a.png", None])
def test_an_image_part_with_a_wrong_name_is_told_the_right_one(api: Api, name: str, file_name: str | None) -> None:
    answer = send(api, {name: (file_name, noise_png(64, 64))})

    assert_problem(answer, 422, "invalid-request")
    assert pointers(answer) == [f"/{name}"]
    assert answer.json()["detail"].endswith("; send an image as a file part with the name image.")


@pytest.mark.parametrize("text", [noise_png(64, 64), b"in.png", f"sha256:{'0' * 64}", "file:///etc/passwd"])
def test_an_image_part_without_a_file_name_is_explained(api: Api, text: bytes | str) -> None:
    answer = send(api, {"image": (None, text)})

    assert answer.json()["detail"] == "image must be a file part, with a file name, or a URL."


def test_a_field_that_is_not_text_is_explained(api: Api) -> None:
    answer = send(api, {"image": ("a.png", noise_png(64, 64)), "label": (None, b"\xff")})

    assert answer.json()["detail"] == "label must be text in UTF-8."


def test_a_number_with_too_many_digits_is_too_large(api: Api) -> None:
    answer = send(api, {"image": ("a.png", noise_png(64, 64)), "width": (None, "9" * 5000)})

    assert_problem(answer, 422, "invalid-request")
    assert answer.json()["detail"] == "width is too large."


def test_a_field_may_be_a_text_file(api: Api) -> None:
    answer = send(api, {"image": ("a.png", noise_png(64, 64)), "label": ("label.txt", b"from a file")})

    assert (answer.status_code, answer.json()["label"]) == (200, "from a file")


def send(api: Api, files: dict[str, Any]) -> requests.Response:
    return requests.post(f"{api.url}/api/img2img", files=files, data={"prompt": "x"}, timeout=30)
