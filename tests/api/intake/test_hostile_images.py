"""Hostile images and forms are refused before anything decodes them, and leave no files."""

import base64
import http.client
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.api.images import encoded, half_mask, noise_png, png_claiming, post_image, scene
from tests.api.problem import assert_problem, pointers
from tests.stack import Api, Stack
from tests.support.polling import wait_until

SCENE = encoded(scene())
JPEG, WEBP = encoded(scene(), "JPEG"), encoded(scene(), "WEBP")
BOUNDARY = "----b"


@pytest.fixture(autouse=True)
def no_files_stay(null: Stack) -> Iterator[None]:
    """Refused requests have left no files."""
    yield
    assert list(null.outputs.glob("inputs/.*")) == []


def animation(kind: str) -> bytes:
    return encoded(scene(), kind, save_all=True, append_images=[scene().rotate(180)])


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"x",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
        encoded(scene(), "GIF"),
        encoded(scene(), "TIFF"),
        encoded(scene(), "BMP"),
        encoded(scene(), "ICO", sizes=[(16, 16)]),
        b"%PDF-1.7",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff" + b"\xff" * 200_000,
        b"\xff\xd8\xff\xda" + b"\0" * 50,
        JPEG[:150],
        SCENE[:8],
        SCENE[:-12],
        SCENE[: len(SCENE) // 2],
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31) + b"IHDR",
        b"\x89PNG\r\n\x1a\n" + (struct.pack(">I", 0) + b"tEXt" + b"\0" * 4) * 150_000,
        SCENE[:33] + (struct.pack(">I", 0) + b"teXt" + b"\0" * 4) * 150_000,
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\x10\0\0\0WEBPVP8 \x04\0\0\0abcd",
        b"RIFF\x20\0\0\0WEBPVP8L\x05\0\0\0\x2e\0\0\0\0",
        png_claiming(60_000, 60_000),
        png_claiming(2**31 - 1, 2**31 - 1),
        png_claiming(0, 10),
        WEBP[:12] + b"VP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
        animation("PNG"),
        animation("WEBP"),
        animation("GIF"),
    ],
    ids=lambda data: repr(data[:14]),
)
def test_invalid_animated_and_oversized_images_are_refused(api: Api, image: bytes) -> None:
    answer = post_image(api, image)

    assert_problem(answer, 422, "invalid-image")
    assert pointers(answer) == ["/image"]
    assert "x-job-id" not in answer.headers


def test_an_empty_file_is_called_empty(api: Api) -> None:
    assert post_image(api, b"").json()["detail"] == "image: The file is empty."


def test_masks_and_images_in_json_are_checked_too(api: Api) -> None:
    bomb = base64.b64encode(png_claiming(60_000, 60_000)).decode()

    assert_problem(post_image(api, SCENE, png_claiming(60_000, 60_000)), 422, "invalid-image")
    for fields in ({"image": bomb}, {"image": [bomb]}, {"image": base64.b64encode(SCENE).decode(), "mask": bomb}):
        assert_problem(api.post("/api/jobs", {"prompt": "x", **fields}), 422, "invalid-image")


def test_an_image_that_cannot_be_decoded_fails_its_job(api: Api) -> None:
    for broken in (JPEG[:-300], png_claiming(900, 900)):
        answer = post_image(api, broken)

        assert_problem(answer, 422, "invalid-image")
        assert answer.headers["x-job-id"]


def test_a_mask_of_another_size_is_refused(api: Api) -> None:
    assert_problem(post_image(api, SCENE, encoded(half_mask(32, 32))), 422, "invalid-image")


def test_data_after_an_image_is_dropped(null: Stack) -> None:
    job = post_image(null.api, SCENE + b"PK\x03\x04<script>alert(1)</script>", strength="0.01")

    assert job.status_code == 200
    (image,) = null.find(f"{job.json()['id']}-0.png")
    assert b"script" not in image.read_bytes()


def test_limits_of_bytes_and_pixels_hold_for_each_image_and_in_total(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("small")
    limits = {"SD_MAX_IMAGE_BYTES": "20000", "SD_MAX_IMAGE_PIXELS": "4096", "SD_MAX_REQUEST_PIXELS": "10000"}
    with Stack(redis_url, folder, SD_BACKENDS="null", **limits) as stack:
        api = stack.start_api()
        large, text = noise_png(100, 100), base64.b64encode(noise_png(100, 100)).decode()

        too_large = post_image(api, large)
        assert_problem(too_large, 413, "payload-too-large")
        assert too_large.json()["detail"] == "image may have at most 20000 bytes."
        assert pointers(too_large) == ["/image"]
        assert_problem(api.post("/api/jobs", {"prompt": "x", "image": text}), 413, "payload-too-large")
        assert_problem(post_image(api, SCENE), 422, "invalid-image")
        assert_problem(post_image(api, encoded(scene(64, 64)), label="x" * 200_000), 413, "payload-too-large")
        several = [base64.b64encode(encoded(scene(64, side))).decode() for side in (64, 63, 62)]
        assert api.post("/api/jobs", {"prompt": "x", "image": several[:2]}).status_code == 202
        problem = api.post("/api/jobs", {"prompt": "x", "image": several})
        assert_problem(problem, 422, "invalid-image")
        assert "in total" in problem.json()["detail"]
        assert list(stack.outputs.glob("inputs/.*")) == []


def form(*parts: bytes, end: bytes = b"--\r\n") -> bytes:
    edge = f"--{BOUNDARY}".encode()
    return b"".join(edge + b"\r\n" + part + b"\r\n" for part in parts) + edge + end


def part(name: str, data: bytes, *more: str) -> bytes:
    headers = f'Content-Disposition: form-data; name="{name}"' + "".join(more)
    return headers.encode() + b"\r\n\r\n" + data


IMAGE, MASK = (part(name, SCENE, '; filename="a.png"') for name in ("image", "mask"))


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", None),
        (b"nothing of the kind", None),
        (form(IMAGE, end=b""), None),
        (form(IMAGE)[:-30], None),
        (form(IMAGE), "multipart/form-data"),
        (form(IMAGE), f"multipart/form-data; boundary={'x' * 500}"),
        (form(part("prompt", b"\xff\xfe"), IMAGE), None),
        (form(*[part(f"p{number}", b"x") for number in range(100)], IMAGE), None),
        (form(part("5ecret of mine", b"x"), part("prompt", b"x"), IMAGE), None),
        (form(part("prompt", b"x", *[f"\r\nX-{number}: y" for number in range(500)]), IMAGE), None),
        (form(part("prompt", b"x", "\r\nX: " + "y" * 50_000), IMAGE), None),
        (form(part("prompt", b"x"), part("metadata", b"{"), IMAGE), None),
        (form(part("prompt", b"x"), part("metadata", b'{"a": 1, "a": 2}'), IMAGE), None),
        (form(part("prompt", b"x"), part("metadata", b"[" * 10_000), IMAGE), None),
        (form(part("prompt", b"x"), IMAGE, MASK, MASK), None),
        (form(part("prompt", b"x"), *[IMAGE] * 17), None),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_malformed_form_is_refused(api: Api, body: bytes, content_type: str | None) -> None:
    headers = {"content-type": content_type or f"multipart/form-data; boundary={BOUNDARY}"}

    answer = requests.post(f"{api.url}/api/img2img", data=body, headers=headers, timeout=60)

    assert_problem(answer, 422, "invalid-request")
    assert "5ecret" not in answer.text


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "image/png", ""])
def test_img2img_accepts_only_forms_and_json(api: Api, content_type: str) -> None:
    answer = requests.post(f"{api.url}/api/img2img", data=SCENE, headers={"content-type": content_type}, timeout=30)

    assert_problem(answer, 415, "unsupported-media-type")


def test_an_interrupted_upload_leaves_no_files(null: Stack) -> None:
    server = http.client.HTTPConnection(null.api.url.removeprefix("http://"), timeout=30)
    server.putrequest("POST", "/api/img2img?prompt=x")
    server.putheader("content-type", f"multipart/form-data; boundary={BOUNDARY}")
    server.putheader("content-length", "10000000")
    server.endheaders(form(part("image", noise_png(500, 500), "; filename=a.png"))[:700_000])
    wait_until(lambda: bool(list(null.outputs.glob("inputs/.*"))))

    server.close()

    wait_until(lambda: not list(null.outputs.glob("inputs/.*")))
    assert "Traceback" not in null.api.process.output


@pytest.mark.parametrize("fields", [{"width": 7}, {"backend": "flux-local"}, {"seed": -1}], ids=str)
def test_images_of_a_refused_request_are_removed(api: Api, fields: dict[str, Any]) -> None:
    assert post_image(api, SCENE, **fields).status_code in (422, 503)
