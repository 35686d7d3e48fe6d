"""Every bad request to another protocol has that protocol's own error, or a warning."""

import base64
import json
import re
import socket
from typing import Any

import pytest
import requests

from tests.api.images import encoded, half_mask, noise_png, png_claiming, scene
from tests.api.wire import open_connection
from tests.stack import Api

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
IMAGE = base64.b64encode(encoded(scene())).decode()
HTML = "data:text/html;base64," + base64.b64encode(b"<html></html>").decode()
JSON = {"Content-Type": "application/json"}


def refusal(answer: requests.Response, status: int, code: str, param: str | None = None) -> str:
    """The message of an error in the shape of OpenAI."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    assert len(answer.content) < 2048
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert isinstance(error["type"], str)
    message: str = error["message"]
    assert message.endswith((".", "what."))
    return message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 1000}, "n"),
        ({"n": 5}, "n"),
        ({"n": "many"}, "n"),
        ({"size": "big"}, "size"),
        ({"size": "99999x99999"}, "size"),
        ({"size": "1x1"}, "size"),
        ({"size": [512, 512]}, "size"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"prompt": "x" * 4_000_000}, "prompt"),
        ({"prompt": "\x00"}, "prompt"),
        ({"quality": "best"}, "quality"),
        ({"background": 3}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"response_format": "file"}, "response_format"),
        ({"partial_images": 9, "stream": True}, "partial_images"),
        ({"seed": -5}, "seed"),
        ({"image": "iVBORw0KGgo!"}, "image"),
        ({"image": "data:image/png,abc"}, "image"),
        ({"image": [{"file_id": "file-1"}]}, "image"),
        ({"mask": IMAGE}, "mask"),
        ({"metadata": "text", "user": "anna"}, "metadata"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_parameter_is_named(api: Api, fields: dict[str, Any], param: str) -> None:
    answer = api.post(GENERATIONS, {"prompt": "x", **fields})

    message = refusal(answer, 400, "invalid-request", param)
    assert re.search(rf"\b{param}\b", message), message
    assert not re.search("num_images|width|height|invalid format", message), message


def test_an_image_may_be_an_object_with_its_address(api: Api) -> None:
    answer = api.post(EDITS, {"prompt": "x", "image": {"image_url": f"data:image/png;base64,{IMAGE}"}})

    assert answer.status_code == 200


@pytest.mark.parametrize("image", ["nonsense", HTML, IMAGE[:100] + "====", base64.b64encode(b"%PDF-1.7").decode()])
def test_what_is_no_image_is_refused(api: Api, image: str) -> None:
    answer = api.post(EDITS, {"prompt": "x", "image": image})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in ("invalid-image", "invalid-request")


def test_a_decompression_bomb_is_refused(api: Api) -> None:
    files = {"image": ("x.png", png_claiming(60_000, 60_000), "image/png")}
    answer = api.http.post(api.url + EDITS, data={"prompt": "x"}, files=files, timeout=30)

    refusal(answer, 400, "invalid-image", "image")


def test_an_edit_without_an_image_is_refused(api: Api) -> None:
    refusal(api.post(EDITS, {"prompt": "x"}), 400, "invalid-request", "image")


def test_a_mask_of_another_size_is_refused(api: Api) -> None:
    mask = base64.b64encode(encoded(half_mask(50, 50))).decode()

    refusal(api.post(EDITS, {"prompt": "x", "image": IMAGE, "mask": mask, "mask_mode": "white"}), 400, "invalid-image")


def test_a_file_in_an_unknown_field_is_refused(api: Api) -> None:
    files = {"drawing": ("x.png", encoded(scene()), "image/png")}
    answer = api.http.post(api.url + EDITS, data={"prompt": "x"}, files=files, timeout=30)

    refusal(answer, 400, "invalid-request", "drawing")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff", b"[" * 100_000, b'{"prompt":"x","prompt":"y"}', b'{"n":NaN}']
)
def test_a_body_that_is_no_object_is_refused(api: Api, body: bytes) -> None:
    answer = api.http.post(api.url + GENERATIONS, data=body, headers=JSON, timeout=30)

    assert answer.status_code in (400, 413)
    assert answer.json()["error"]["message"]


def test_a_body_without_a_content_type_is_json(api: Api) -> None:
    answer = api.http.post(api.url + GENERATIONS, data=json.dumps({"prompt": "x"}), timeout=30)

    assert "content-type" not in answer.request.headers
    assert answer.status_code == 200


def test_a_body_of_another_type_is_refused(api: Api) -> None:
    answer = api.http.post(api.url + GENERATIONS, data="x", headers={"Content-Type": "text/plain"}, timeout=30)

    refusal(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("size", "made"), [("8192x8192", (2048, 2048)), ("1024x512", (1024, 512)), ("500x300", (500, 300))]
)
def test_a_size_that_cannot_be_made_is_the_nearest_with_a_warning(api: Api, size: str, made: tuple[int, int]) -> None:
    answer = api.post(GENERATIONS, {"prompt": "x", "size": size})

    assert answer.status_code == 200
    job = api.get(f"/api/jobs/{answer.headers['x-job-id']}").json()
    assert (job["images"][0]["width"], job["images"][0]["height"]) == made
    assert job["warnings"]


def test_the_native_api_refuses_such_a_size(api: Api) -> None:
    assert api.post("/api/txt2img", {"prompt": "x", "width": 8192, "height": 8192}).status_code == 422


def test_unknown_parameters_are_warned_about(api: Api) -> None:
    unknown = {f"unknown_{number}": number for number in range(100)}

    answer = api.post(GENERATIONS, {"prompt": "x", "safety_identifier": "y", "a b": 1, **unknown})

    warnings = api.get(f"/api/jobs/{answer.headers['x-job-id']}").json()["warnings"]
    assert [warning.split()[0] for warning in warnings] == [f"unknown_{number}" for number in range(8)]


@pytest.mark.parametrize(
    ("fail", "status"),
    [("out-of-memory", 507), ("invalid-output", 502), ("internal-error", 500), ("storage-full", 507)],
)
def test_a_failed_job_is_an_error_that_says_whether_to_try_again(api: Api, fail: str, status: int) -> None:
    answer = api.post(GENERATIONS, {"prompt": "x", "metadata": {"simulate": {"fail": fail}}})

    refusal(answer, status, fail)
    assert answer.headers["x-should-retry"] == ("true" if fail == "storage-full" else "false")
    assert answer.json()["error"]["job_id"] == answer.headers["x-request-id"] == answer.headers["x-job-id"]


def test_a_withheld_image_is_a_policy_violation(api: Api) -> None:
    answer = api.post(GENERATIONS, {"prompt": "x", "metadata": {"simulate": {"flag": 1}}})

    refusal(answer, 400, "content_policy_violation")
    assert answer.json()["error"]["problem"] == "content-rejected"


def test_paths_that_do_not_exist_have_the_shape_of_the_protocol(api: Api) -> None:
    refusal(api.get("/v1/chat/completions"), 404, "not-found")
    refusal(api.get(GENERATIONS), 405, "method-not-allowed")
    assert "x-error-message" in api.get("/models/x").headers


def stream(api: Api, **fields: Any) -> str:
    answer = api.post(GENERATIONS, {"prompt": "x", "stream": True, **fields})
    assert answer.headers["content-type"].startswith("text/event-stream")
    return answer.text


def test_a_job_that_fails_ends_its_stream_with_an_error(api: Api) -> None:
    *_, last = stream(api, metadata={"simulate": {"fail": "out-of-memory"}}).strip().split("\n\n")

    kind, _, data = last.partition("\n")
    assert kind == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "out-of-memory"


def test_a_stream_has_the_partial_images_that_it_asks_for_however_short_the_steps(api: Api) -> None:
    events = stream(api, partial_images=3, num_inference_steps=100, metadata={"simulate": {"seconds": 0.4}})

    assert [f'"partial_image_index": {index}' in events for index in range(4)] == [True, True, True, False]


def test_each_image_of_a_stream_is_completed(api: Api) -> None:
    assert stream(api, n=3).count("event: image_generation.completed") == 3


def test_a_stream_that_is_dropped_leaves_the_job_running(api: Api) -> None:
    body = json.dumps({"prompt": "x", "stream": True, "label": "dropped", "metadata": {"simulate": {"seconds": 0.5}}})
    with open_connection(api) as connection:
        head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        answer = connection.recv(4096)
        connection.shutdown(socket.SHUT_RDWR)

    job_id = next(line.split()[1] for line in answer.decode().split("\r\n") if line.startswith("x-job-id"))
    assert api.wait_until_done(job_id)["state"] == "succeeded"
    assert "Traceback" not in api.process.output


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "inputs"),
        ({"inputs": "x", "parameters": 3}, "parameters"),
        ({"inputs": 3}, "inputs must be text"),
        ({"inputs": {"x": 1}}, "inputs must be text"),
        ({"inputs": "nonsense", "parameters": {"prompt": "x"}}, "image"),
        ({"inputs": HTML, "parameters": {"prompt": "x"}}, "image"),
        ({"inputs": "x", "parameters": {"target_size": 3}}, "target_size"),
        ({"inputs": "x", "parameters": {"width": "wide"}}, "width"),
        ({"inputs": "x" * 4_000_000}, "image"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hugging_face_clients_are_told_what_is_wrong(api: Api, body: dict[str, Any], message: str) -> None:
    answer = api.post("/models/null", body)

    assert answer.status_code == 400
    assert message in answer.headers["x-error-message"]
    assert answer.json()["error"].endswith((".", "what."))


def test_an_error_that_lasts_is_no_503_for_hugging_face_clients(api: Api) -> None:
    """The one for JavaScript repeats such a call without a pause and without an end."""
    answer = api.post("/models/null/broken", {"inputs": "x"})

    assert (answer.status_code, answer.json()["code"]) == (500, "model-unavailable")


def test_a_raw_image_that_is_too_large_is_refused(api: Api) -> None:
    answer = api.http.post(f"{api.url}/models/null", data=noise_png(4096, 2048), timeout=60)

    assert answer.status_code == 413
    assert answer.headers["x-error-message"]
