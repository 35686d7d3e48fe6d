"""Paths and names that try to leave the folder of images."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.api.images import PROMPT, encoded, scene
from tests.api.wire import send_raw
from tests.stack import Stack

SECRET = "5ecret-of-the-file"
#: A folder that every user can write to.
ELSEWHERE = tempfile.gettempdir()

#: Ways to write `../`: plain, percent-encoded once and twice, with the other slash, overlong and full-width UTF-8.
CLIMBS = [
    "../",
    "..//",
    "./../",
    "....//",
    "..;/",
    "..%2f",
    "%2e%2e/",
    "%2e%2e%2f",
    "%2E%2E%2F",
    ".%2e/",
    "..\\",
    "..%5c",
    "%2e%2e%5c",
    "%252e%252e%252f",
    "%25252e%25252e%25252f",
    "..%c0%af",
    "%c0%ae%c0%ae/",
    "%e0%80%ae%e0%80%ae%e0%80%af",
    "%uff0e%uff0e%u2215",
    "%ef%bc%8e%ef%bc%8e%ef%bc%8f",
    "..%00/",
    "..%0d%0a/",
    "..%09/",
]


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service with a secret file next to its output folder, and another inside."""
    folder = tmp_path_factory.mktemp("paths")
    with Stack(redis_url, folder, SD_BACKENDS="null") as stack:
        stack.start_worker("null")
        stack.start_api()
        for location in (folder, stack.outputs):
            (location / "secret.txt").write_text(SECRET)
        yield stack


@pytest.fixture(scope="module")
def image(stack: Stack) -> str:
    """The path of an image URL."""
    job = stack.api.post("/api/txt2img", PROMPT).json()
    return urlsplit(job["images"][0]["url"]).path


@pytest.mark.parametrize("climb", CLIMBS)
def test_no_encoding_of_parent_folders_leaves_the_outputs(stack: Stack, image: str, climb: str) -> None:
    job = image.rpartition("/images/")[0]
    bases = ["/", "/docs/", "/api/jobs/", f"{job}/images/", f"{image}/", "/api/webhooks/"]
    ways = [climb * steps + target for steps in (1, 8) for target in ("secret.txt", "outputs/secret.txt", "etc/passwd")]
    for path in [*(base + way for base in bases for way in ways), f"{climb * 8}etc/passwd"]:
        answer = send_raw(stack.api, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split()[1] in (b"400", b"404", b"422"), path
        assert b"\r\ncontent-type: application/problem+json" in head.lower()
        for text in (SECRET, "root:", "passwd", "secret.txt"):
            assert text.encode() not in body, path
    assert "Traceback" not in stack.api.process.output


@pytest.mark.parametrize("target", ["//etc/passwd", "http://localhost/etc/passwd", "file:///etc/passwd", "/%2fetc"])
def test_absolute_and_file_urls_lead_nowhere_else(stack: Stack, target: str) -> None:
    answer = send_raw(stack.api, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    assert answer.split()[1] in (b"400", b"404")
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "name", ["../../evil.png", f"{ELSEWHERE}/evil.png", "..\\..\\evil", "evil\0.png", "%2e%2e%2fevil"]
)
@pytest.mark.parametrize("field", ["label", "file", "bfl_model", "scheduler", "output_format"])
def test_no_text_of_a_request_becomes_a_path(stack: Stack, field: str, name: str) -> None:
    form: dict[str, Any] = {**PROMPT, **({field: name} if field != "file" else {})}
    files = {"image": (name if field == "file" else "in.png", encoded(scene()), "image/png")}

    answer = requests.post(f"{stack.api.url}/api/img2img", data=form, files=files, timeout=30)

    assert answer.status_code in (200, 422)
    assert _unexpected_files(stack) == []
    assert not Path(f"{ELSEWHERE}/evil.png").exists()


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..%2f..%2fsecret", "secret\0", "a/../b", "a//b"])
def test_a_lora_name_cannot_be_a_path(stack: Stack, name: str) -> None:
    answer = stack.api.post("/api/jobs", {"prompt": "x", "loras": [{"name": name}]})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/loras/0/name"


def _unexpected_files(stack: Stack) -> list[Path]:
    """Files of the installation that are not images in their place, except those of this test."""
    jobs = {job["id"] for job in stack.api.get("/api/jobs?limit=100").json()["jobs"]}
    files = (path for path in stack.find("*") if path.is_file() and path.name != "secret.txt")
    return [path for path in files if path.name[:36] not in jobs and path.parent.name not in jobs]
