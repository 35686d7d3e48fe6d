"""Requests of apps that speak the OpenAI API, sent byte for byte as these apps send them."""

import base64
import json
import re
from typing import Any

import pytest

from tests.api.clients import ALICE
from tests.api.images import encoded, scene
from tests.api.wire import open_connection
from tests.conftest import RED_HEART
from tests.stack import Api, Stack
from tests.worker.images.image_checks import opened, pixels, shows_a_red_heart

HEART = RED_HEART["prompt"]
IMAGE = encoded(scene(128, 128))


class Reply:
    """An answer, split as simply as its bytes allow."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def image(self) -> bytes:
        (entry,) = self.json["data"]
        return base64.b64decode(entry["b64_json"], validate=True)


def replay(api: Api, lines: str, body: bytes = b"") -> Reply:
    """Send a request whose head is written below, with its length and the address filled in."""
    head = "\r\n".join(line.strip() for line in lines.strip().splitlines())
    head = head.replace("HOST", api.url.removeprefix("http://")).replace("LENGTH", str(len(body)))
    with open_connection(api) as connection:
        connection.settimeout(60)
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        data = b""
        while not _is_complete(data):
            chunk = connection.recv(65_536)
            assert chunk, data
            data += chunk
    return Reply(data)


def _is_complete(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(end) and (length is None or len(body) >= int(length.group(1)))


OPEN_WEBUI = """
    POST /v1/images/generations HTTP/1.1
    Host: HOST
    Content-Type: application/json
    Authorization: Bearer sk-anything
    Accept: */*
    Accept-Encoding: gzip, deflate, br, zstd
    User-Agent: Python/3.11 aiohttp/3.13.2
    Content-Length: LENGTH
"""


@pytest.mark.parametrize(
    "body",
    [
        {"model": "gpt-image-1", "prompt": HEART, "n": 1, "size": "512x512"},
        {"model": "dall-e-3", "prompt": HEART, "n": 1, "size": "512x512", "response_format": "b64_json"},
    ],
    ids=lambda body: body["model"],
)
def test_open_webui_gets_its_first_image_right(sd: Stack, body: dict[str, Any]) -> None:
    reply = replay(sd.api, OPEN_WEBUI, json.dumps(body).encode())

    assert reply.status == 200
    # It fetches an image that has a url, which fails for private addresses.
    assert "url" not in reply.json["data"][0]
    assert opened(reply.image).size == (512, 512)
    assert shows_a_red_heart(pixels(reply.image))


def form(boundary: str, fields: dict[str, str], files: dict[str, bytes]) -> bytes:
    disposition = f"--{boundary}\r\nContent-Disposition: form-data"
    parts = [f'{disposition}; name="{name}"\r\n\r\n{text}\r\n'.encode() for name, text in fields.items()]
    for name, data in files.items():
        head = f'{disposition}; name="{name}"; filename="image.png"\r\nContent-Type: image/png\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


@pytest.mark.parametrize("part", ["image", "image[]"])
def test_open_webui_edits(sd: Stack, part: str) -> None:
    fields = {"model": "gpt-image-1", "prompt": HEART, "n": "1", "size": "512x512", "background": "auto"}
    boundary = "3f1c0f5e8d6b4d0f9c4a6f0d2b1a7e55"
    head = OPEN_WEBUI.replace("generations", "edits").replace(
        "application/json", f"multipart/form-data; boundary={boundary}"
    )

    reply = replay(sd.api, head, form(boundary, fields, {part: IMAGE}))

    assert reply.status == 200
    assert opened(reply.image).size == (512, 512)


N8N_ACCEPT = "application/json,text/html,application/xhtml+xml,application/xml,text/*;q=0.9, image/*;q=0.8, */*;q=0.7"
N8N = f"""
    METHOD PATH HTTP/1.1
    Accept: {N8N_ACCEPT}
    Content-Type: application/json
    Authorization: Bearer sk-anything
    OpenAI-Organization: n8n
    User-Agent: axios/1.13.2
    Content-Length: LENGTH
    Accept-Encoding: gzip, compress, deflate, br
    Host: HOST
    Connection: keep-alive
"""


def test_n8n_tests_its_credential_and_lists_models(sd: Stack) -> None:
    reply = replay(sd.api, N8N.replace("METHOD PATH", "GET /v1/models").replace("    Content-Length: LENGTH\n", ""))

    names = [model["id"] for model in reply.json["data"]]
    assert [name for name in names if "dall-e" in name or "gpt-image" in name][:3] == [
        "dall-e-2",
        "dall-e-3",
        "gpt-image-1",
    ]


def test_n8n_generates(sd: Stack) -> None:
    body = {
        "prompt": HEART,
        "model": "dall-e-3",
        "n": 1,
        "quality": "standard",
        "size": "1024x1024",
        "style": "vivid",
        "response_format": "b64_json",
    }

    reply = replay(sd.api, N8N.replace("METHOD PATH", "POST /v1/images/generations"), json.dumps(body).encode())

    assert opened(reply.image).size == (1024, 1024)
    assert shows_a_red_heart(pixels(reply.image))


def test_n8n_edits(sd: Stack) -> None:
    fields = {
        "prompt": HEART,
        "model": "gpt-image-1",
        "n": "1",
        "size": "1024x1024",
        "background": "auto",
        "input_fidelity": "low",
        "output_format": "png",
        "output_compression": "100",
        "quality": "auto",
    }
    boundary = "--------------------------529716542810264871398013"
    head = N8N.replace("METHOD PATH", "POST /v1/images/edits").replace(
        "application/json\n", f"multipart/form-data; boundary={boundary}\n", 1
    )

    reply = replay(sd.api, head, form(boundary, fields, {"image[]": IMAGE}))

    assert reply.status == 200
    assert opened(reply.image).format == "PNG"


INVOKE_AI = """
    POST /v1/images/generations HTTP/1.1
    Host: HOST
    User-Agent: python-requests/2.32.5
    Accept-Encoding: gzip, deflate
    Accept: */*
    Connection: keep-alive
    Authorization: Bearer sk-anything
    Content-Length: LENGTH
    Content-Type: application/json
"""


def test_invokeai_stores_the_id_of_the_job(sd: Stack) -> None:
    body = {
        "model": "gpt-image-1",
        "prompt": HEART,
        "n": 1,
        "size": "1024x1024",
        "output_format": "png",
        "quality": "auto",
        "background": "auto",
    }

    reply = replay(sd.api, INVOKE_AI, json.dumps(body).encode())

    assert shows_a_red_heart(pixels(reply.image))
    job = sd.api.get(f"/api/jobs/{reply.headers['x-request-id']}").json()
    assert (job["origin"], job["state"]) == ("openai", "succeeded")


AI_SDK = """
    POST /v1/images/generations HTTP/1.1
    host: HOST
    connection: keep-alive
    content-type: application/json
    authorization: Bearer sk-anything
    user-agent: ai/6.0.14 ai-sdk/openai-compatible/3.0.92 ai-sdk/provider-utils/5.0.20 runtime/node.js/24
    accept: */*
    accept-language: *
    sec-fetch-mode: cors
    accept-encoding: gzip, deflate
    content-length: LENGTH
"""


@pytest.mark.parametrize("extra", [{}, {"response_format": "b64_json"}], ids=["3.0.92", "2.0.92"])
def test_the_ai_sdk_finds_base64_and_usage(sd: Stack, extra: dict[str, str]) -> None:
    body = {"model": "gpt-image-1", "prompt": HEART, "n": 1, "size": "512x512", "seed": 42, **extra}

    reply = replay(sd.api, AI_SDK, json.dumps(body).encode())

    assert shows_a_red_heart(pixels(reply.image))
    assert reply.json["usage"]["input_tokens"] == 0


def test_the_ai_sdk_shows_what_is_wrong(keyed: Stack) -> None:
    body = json.dumps({"model": "gpt-image-1", "prompt": "x", "n": 1, "size": "512x512"}).encode()

    refused = replay(keyed.api, AI_SDK, body)
    accepted = replay(keyed.api, AI_SDK.replace("sk-anything", ALICE), body)

    assert (refused.status, refused.json["error"]["code"], refused.headers["x-should-retry"]) == (
        401,
        "unauthorized",
        "false",
    )
    assert "API key" in refused.json["error"]["message"]
    assert accepted.status == 200


SILLY_TAVERN = """
    POST /v1/images/generations HTTP/1.1
    Content-Type: application/json
    Authorization: Bearer sk-anything
    Accept: */*
    Content-Length: LENGTH
    User-Agent: node-fetch
    Accept-Encoding: gzip, deflate, br
    Connection: close
    Host: HOST
"""


def test_silly_tavern_draws_through_its_custom_source(sd: Stack) -> None:
    body = {"prompt": HEART, "model": "starter", "n": 1, "size": "512x512", "response_format": "b64_json"}

    reply = replay(sd.api, SILLY_TAVERN, json.dumps(body).encode())

    assert shows_a_red_heart(pixels(reply.image))
