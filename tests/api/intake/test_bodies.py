"""Size limits, content types and encodings of bodies, and what brackets mean in forms."""

import base64
import gzip
import json
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
import requests

from tests.api.images import PROMPT, encoded, scene
from tests.api.problem import assert_problem
from tests.api.wire import send_raw
from tests.stack import Api, Stack

SCENE = encoded(scene())
SCENE_BASE64 = base64.b64encode(SCENE)
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("path", ["/api/jobs", "/api/txt2img", "/api/img2img", "/api/elsewhere"])
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(api: Api, path: str) -> None:
    server = HTTPConnection(api.url.removeprefix("http://"), timeout=30)
    server.putrequest("POST", path)
    server.putheader("content-type", "application/json")
    server.putheader("content-length", "70000000")
    server.endheaders()

    answer = server.getresponse()

    assert (answer.status, json.load(answer)["code"]) == (413, "payload-too-large")
    server.close()


def test_the_size_limit_for_images_does_not_apply_to_text(api: Api) -> None:
    answer = requests.post(f"{api.url}/api/jobs", json={"prompt": "x" * 5_000_000}, timeout=30)

    assert_problem(answer, 422, "invalid-request")


def chunked(*chunks: bytes) -> Iterator[bytes]:
    yield from chunks


def test_a_chunked_body_is_read(api: Api) -> None:
    chunks = chunked(b'{"prompt": "x", ', b'"image": "', SCENE_BASE64, b'"}')

    answer = requests.post(f"{api.url}/api/jobs", data=chunks, headers=JSON, timeout=30)

    assert answer.status_code == 202


def test_a_chunked_form_is_read(api: Api) -> None:
    prepared = requests.Request("POST", api.url, data={"prompt": "x"}, files={"image": ("x.png", SCENE)}).prepare()
    headers = {"content-type": prepared.headers["content-type"]}
    assert isinstance(prepared.body, bytes)

    answer = requests.post(f"{api.url}/api/img2img", data=chunked(prepared.body), headers=headers, timeout=30)

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 15", '{"prompt": "x"}'),
        ("Transfer-Encoding: chunked", 'f\r\n{"prompt": "x"}\r\n0\r\n\r\n'),
    ],
    ids=["length", "chunks"],
)
def test_a_body_is_read_although_its_client_offers_another_protocol(api: Api, framing: str, body: str) -> None:
    """The HttpClient of Java, which LangChain4j and Spring AI use, offers HTTP/2 with every request."""
    offer = "HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\nUpgrade: h2c"

    def request(connection: str) -> str:
        head = f"POST /api/jobs HTTP/1.1\r\nConnection: {connection}\r\n{framing}\r\nHost: localhost\r\n{offer}\r\n"
        return f"{head}Content-Type: application/json\r\n\r\n{body}"

    answers = send_raw(api, request("Upgrade, HTTP2-Settings") + request("close, Upgrade, HTTP2-Settings"))

    assert answers.count(b"HTTP/1.1 202 Accepted") == 2


@pytest.mark.parametrize("path", ["/api/jobs", "/api/txt2img", "/api/img2img"])
def test_a_chunked_body_has_a_size_limit(null: Stack, path: str) -> None:
    api = null.start_api(SD_MAX_BODY_BYTES="200000")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

    answer = send_raw(api, head + ("186a0\r\n" + " " * 100_000 + "\r\n") * 1000)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


def test_a_compressed_body_is_refused(api: Api) -> None:
    headers = {**JSON, "content-encoding": "gzip"}

    answer = requests.post(f"{api.url}/api/jobs", data=gzip.compress(b'{"prompt": "x"}'), headers=headers, timeout=30)

    assert_problem(answer, 415, "unsupported-media-type")
    assert "Content-Encoding" in answer.json()["detail"]


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_only_json_is_accepted(api: Api, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}

    answer = requests.post(f"{api.url}/api/jobs", data=b'{"prompt": "x"}', headers=headers, timeout=30)

    assert_problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_the_encoding_is_explained(api: Api, encoding: str) -> None:
    body = '{"prompt": "ein Bär"}'.encode(encoding)

    answer = requests.post(f"{api.url}/api/jobs", data=body, headers=JSON, timeout=30)

    assert_problem(answer, 422, "invalid-request")
    assert answer.json()["detail"] == "The body must be text in UTF-8, without a byte order mark."


def test_json_with_a_charset_is_json(api: Api) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}

    answer = requests.post(f"{api.url}/api/jobs", data=b'{"prompt": "x"}', headers=headers, timeout=30)

    assert answer.status_code == 202


@pytest.mark.parametrize("body", [b"", b" \n"])
def test_a_missing_body_is_refused(api: Api, body: bytes) -> None:
    answer = requests.post(f"{api.url}/api/jobs", data=body, headers=JSON, timeout=30)

    assert_problem(answer, 422, "invalid-request")
    assert answer.json()["detail"] == "The body is empty; send a JSON object."


def test_lists_and_objects_in_a_form_may_be_in_brackets(null: Stack) -> None:
    form = [
        *({**PROMPT, "metadata[order]": "7", "metadata[a b]": "c"}.items()),
        *(("loras[][name]", name) for name in ("ink", "wash")),
        *(("loras[][scale]", "0.5") for _ in range(2)),
        *(("webhook_events[]", event) for event in ("started", "succeeded")),
        ("webhook_url", "https://example.com/"),
    ]
    url, files = f"{null.api.url}/api/img2img", {"image": ("a.png", SCENE)}

    job = requests.post(url, data=form, files=files, timeout=60).json()

    assert job["metadata"] == {"order": "7", "a b": "c"}
    assert job["request"]["loras"] == [{"name": "ink", "scale": 0.5}, {"name": "wash", "scale": 0.5}]
    assert job["webhook"]["events"] == ["started", "succeeded", "failed"]


@pytest.mark.parametrize(
    "form",
    [
        [("loras[][name]", "a"), ("loras[][name]", "b"), ("loras[][scale]", "1")],
        [("loras[0][name]", "a"), ("loras[1][name]", "b")],
        [("metadata[a][b]", "c")],
        [("metadata[a]", "b"), ("metadata[a]", "c")],
    ],
    ids=str,
)
def test_what_brackets_leave_open_is_asked_for_as_json(null: Stack, form: list[tuple[str, str]]) -> None:
    url, files = f"{null.api.url}/api/img2img", {"image": ("a.png", SCENE)}

    answer = requests.post(url, data=[*PROMPT.items(), *form], files=files, timeout=60)

    assert_problem(answer, 422, "invalid-request")
    assert answer.json()["detail"].endswith("must be a single field with JSON as its text.")
