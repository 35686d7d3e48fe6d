"""Bodies are bounded, of known size, and JSON that says so."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
import requests

from tests.api.problem import assert_problem
from tests.stack import Api

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


def test_a_body_for_pictures_has_no_more_room_for_words(api: Api) -> None:
    answer = requests.post(f"{api.url}/api/jobs", json={"prompt": "x" * 5_000_000}, timeout=30)

    assert_problem(answer, 422, "invalid-request")


def test_a_body_of_unknown_size_is_not_read(api: Api) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"prompt": "x"}'

    answer = requests.post(f"{api.url}/api/jobs", data=chunks(), headers=JSON, timeout=30)

    assert_problem(answer, 411, "length-required")


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
