"""Invalid requests get short errors that never quote the input."""

import json
from typing import Any

import pytest
import requests

from tests.api.problem import assert_problem, pointers
from tests.stack import Api, Stack

SECRET = "5ecret"
NESTED = "[" * 150 + "]" * 150


def send(api: Api, body: str | bytes, content_type: str = "application/json") -> requests.Response:
    headers = {"content-type": content_type} if content_type else {}
    return requests.post(f"{api.url}/api/jobs", data=body, headers=headers, timeout=30)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"5ecret"',
        b"{",
        b"{'prompt': '5ecret'}",
        b'{"prompt": "5ecret"',
        b'\xef\xbb\xbf{"prompt": "5ecret"}',
        b'{"prompt": "5ecret\xff"}',
        b'{"prompt": "5ecret \\ud800"}',
        b'{"prompt": "5ecret", "guidance_scale": NaN}',
        b'{"prompt": "5ecret", "guidance_scale": Infinity}',
        b'{"prompt": "5ecret", "guidance_scale": -1e999}',
        b'{"prompt": "5ecret", "seed": 1e999}',
        b'{"prompt": "5ecret", "metadata": {"5ecret": 1e999}}',
        b'{"prompt": "5ecret", "metadata": {"5ecret": NaN}}',
        b'{"prompt": "5ecret", "metadata": {"5ecret": "\\udfff"}}',
        b'{"prompt": "5ecret", "metadata": {"5ecret": %s}}' % NESTED.encode(),
        b"[" * 10_000,
        b'{"prompt": "5ecret", "seed": %s}' % (b"9" * 5_000),
        b'{"prompt": "5ecret", "prompt": "5ecret"}',
        b'{"prompt": "5ecret", "seed": 1, "\\u0073eed": 2}',
        b'{"prompt": "5ecret", "metadata": {"5ecret": [{"a": 1, "a": 2}]}}',
        b'{"prompt": "5ecret", "loras": [{"name": "5ecret", "scale": 1, "scale": 2}]}',
    ],
    ids=lambda body: repr(body[:60]),
)
def test_an_invalid_body_is_refused(api: Api, body: bytes) -> None:
    answer = send(api, body)

    assert_problem(answer, 422, "invalid-request")
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"prompt": "5ecret",\n "seed": }', "at line 2 column 10"),
        ('{"prompt": "5ecret\n"}', "while parsing a string at line 2 column 0"),
        ('{"prompt": "5ecret" "seed": 1}', "at line 1 column 21"),
        (f'{{"prompt": "x", "image": "{"A" * 200_000}", "seed": }}', "is not valid JSON."),
    ],
    ids=["no value", "line break in a text", "no comma", "behind an image, which was taken out"],
)
def test_invalid_json_is_refused_with_the_place_of_the_error(api: Api, body: str, reason: str) -> None:
    answer = send(api, body)

    assert_problem(answer, 422, "invalid-request")
    assert answer.json()["detail"].removesuffix(".").endswith(reason.removesuffix("."))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None),
        ("prompt", ""),
        ("prompt", 7),
        ("prompt", ["x"]),
        ("prompt", "5ecret \0"),
        ("prompt", "5ecret \x1b[31m"),
        ("prompt", "5ecret" * 1000),
        ("negative_prompt", "5ecret \x7f"),
        ("negative_prompt", "5ecret" * 1000),
        ("backend", "5ecret"),
        ("backend", 1),
        ("width", 0),
        ("width", -64),
        ("width", 15),
        ("width", 1_000_000),
        ("width", 64.5),
        ("width", "5ecret"),
        ("width", {"5ecret": 1}),
        ("height", 10**30),
        ("num_inference_steps", 0),
        ("num_inference_steps", 151),
        ("guidance_scale", -1),
        ("guidance_scale", 51),
        ("seed", -1),
        ("seed", 2**32),
        ("num_images", 0),
        ("num_images", 5),
        ("num_images", None),
        ("scheduler", "5ecret" * 10),
        ("scheduler", "5ecret \0"),
        ("bfl_model", "5ecret \0"),
        ("output_format", "5ecret"),
        ("response_format", "5ecret"),
        ("label", ""),
        ("label", "5ecret" * 30),
        ("label", "5ecret \n\0"),
        ("metadata", "5ecret"),
        ("metadata", ["5ecret"]),
        ("metadata", {"5ecret": "x" * 2048}),
        ("priority", "5ecret"),
        ("deadline_seconds", 0),
        ("deadline_seconds", 86_401),
        ("unknown", "5ecret"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_invalid_field_is_named(api: Api, field: str, value: Any) -> None:
    answer = api.post("/api/jobs", {"prompt": "5ecret", field: value})

    assert_problem(answer, 422, "invalid-request")
    assert pointers(answer) == [f"/{field}"]
    assert SECRET not in answer.text


def test_too_many_pixels_are_refused(api: Api) -> None:
    answer = api.post("/api/jobs", {"prompt": "x", "width": 4096, "height": 1025})

    assert_problem(answer, 422, "invalid-request")
    assert pointers(answer) == ["/width"]


@pytest.mark.parametrize("field", [{"width": 4096, "height": 4096}, {"num_images": 5}], ids=str)
def test_the_operators_limits_hold_before_a_worker_starts(idle: Stack, field: dict[str, int]) -> None:
    answer = idle.api.post("/api/jobs", {"prompt": "x", **field})

    assert_problem(answer, 422, "invalid-request")


def test_a_seed_too_large_for_the_number_of_images_is_refused(api: Api) -> None:
    answer = api.post("/api/jobs", {"prompt": "x", "seed": 2**32 - 1, "num_images": 2})

    assert_problem(answer, 422, "invalid-request")


def test_a_hundred_wrong_fields_still_get_a_small_answer(api: Api) -> None:
    answer = api.post("/api/jobs", {"prompt": "x", **{f"{SECRET}{number:0100}\0é": number for number in range(100)}})

    assert_problem(answer, 422, "invalid-request")
    assert SECRET not in answer.text


def test_metadata_as_deep_as_allowed_comes_back_unchanged(api: Api) -> None:
    metadata: dict[str, Any] = {"number": 1.5, "none": None, "text": "é\n\0", "large": 2**70}
    metadata["deep"] = json.loads("[" * 31 + "]" * 31)

    answer = api.post("/api/txt2img", {"prompt": "x", "metadata": metadata})

    assert answer.json()["metadata"] == metadata


def test_line_breaks_in_a_prompt_are_text(api: Api) -> None:
    answer = api.post("/api/txt2img", {"prompt": "a heart\n\tand a star 🌟"})

    assert answer.json()["request"]["prompt"] == "a heart\n\tand a star 🌟"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "/limit"),
        ("limit=101", "/limit"),
        ("limit=5ecret", "/limit"),
        ("cursor=5ecret", "/cursor"),
        ("cursor=", "/cursor"),
        ("cursor=019aaf3e-6a1c-7b61-9c0e-3f1f7d1c2b4a%0a", "/cursor"),
        ("state=5ecret", "/state"),
        ("backend=5ecret", "/backend"),
        ("label=" + "5ecret" * 30, "/label"),
    ],
)
def test_a_bad_filter_is_named(api: Api, query: str, field: str) -> None:
    answer = api.get(f"/api/jobs?{query}")

    assert_problem(answer, 422, "invalid-request")
    assert pointers(answer) == [field]
    assert SECRET not in answer.text
