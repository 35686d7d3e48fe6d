"""Bodies are bounded, of known size, and JSON that says so."""

import base64
import gzip
import json
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
import requests

from tests.api.images import encoded, scene
from tests.api.problem import assert_problem
from tests.api.wire import send_raw
from tests.stack import Api, Stack

SCENE = encoded(scene())
SCENE_BASE64 = base64.b64encode(SCENE)
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("path", ["/api/jobs", "/api/txt2img", "/api/img2img", "/api/elsewhere"])
def test_a_body_that_is_too_large_is_turned_away_before_it_is_sent(api: Api, path: str) -> None:
    server = HTTPConnection(api.url.removeprefix("http://"), timeout=30)
    server.putrequest("POST", path)
    server.putheader("content-type", "application/json")
    server.putheader("content-length", "70000000")
    server.endheaders()

    answer = server.getresponse()

    assert (answer.status, json.load(answer)["code"]) == (413, "payload-too-large")
    server.close()


def test_a_body_for_images_has_no_more_room_for_words(api: Api) -> None:
    answer = requests.post(f"{api.url}/api/jobs", json={"prompt": "x" * 5_000_000}, timeout=30)

    assert_problem(answer, 422, "invalid-request")


def chunks(*pieces: bytes) -> Iterator[bytes]:
    yield from pieces


def test_a_body_in_chunks_is_read(api: Api) -> None:
    pieces = chunks(b'{"prompt": "x", ', b'"image": "', SCENE_BASE64, b'"}')

    answer = requests.post(f"{api.url}/api/jobs", data=pieces, headers=JSON, timeout=30)

    assert answer.status_code == 202


def test_a_form_in_chunks_is_read(api: Api) -> None:
    prepared = requests.Request("POST", api.url, data={"prompt": "x"}, files={"image": ("x.png", SCENE)}).prepare()
    headers = {"content-type": prepared.headers["content-type"]}

    answer = requests.post(f"{api.url}/api/img2img", data=chunks(prepared.body), headers=headers, timeout=30)

    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/api/jobs", "/api/txt2img", "/api/img2img"])
def test_a_body_in_chunks_is_bounded(null: Stack, path: str) -> None:
    api = null.start_api(SD_MAX_BODY_BYTES="200000")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

    answer = send_raw(api, head + ("186a0\r\n" + " " * 100_000 + "\r\n") * 1000)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


def test_a_compressed_body_is_refused_as_what_it_is(api: Api) -> None:
    headers = {**JSON, "content-encoding": "gzip"}

    answer = requests.post(f"{api.url}/api/jobs", data=gzip.compress(b'{"prompt": "x"}'), headers=headers, timeout=30)

    assert_problem(answer, 415, "unsupported-media-type")
    assert "Content-Encoding" in answer.json()["detail"]


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_only_json_is_taken(api: Api, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}

    answer = requests.post(f"{api.url}/api/jobs", data=b'{"prompt": "x"}', headers=headers, timeout=30)

    assert_problem(answer, 415, "unsupported-media-type")


def test_json_with_a_charset_is_json(api: Api) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}

    answer = requests.post(f"{api.url}/api/jobs", data=b'{"prompt": "x"}', headers=headers, timeout=30)

    assert answer.status_code == 202


def test_no_body_at_all_is_no_request(api: Api) -> None:
    answer = requests.post(f"{api.url}/api/jobs", headers=JSON, timeout=30)

    assert_problem(answer, 422, "invalid-request")
