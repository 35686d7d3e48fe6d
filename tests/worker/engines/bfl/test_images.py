"""Downloading and decoding images: retries, allowed hosts, and invalid files."""

import json
import struct
import time
import zlib

import pytest
from pydantic import SecretStr

from shared.errors import ForbiddenUrl, InvalidOutput, TimedOut
from shared.net.egress_proxy import EgressProxy
from tests.shared.outbound.proxies import connect_proxy
from tests.worker.engines.bfl.conftest import QUICK, Table
from tests.worker.engines.bfl.provider import KEY, Reply, image, refused, state
from tests.worker.recording_watch import RecordingWatch
from worker.engines.bfl import http
from worker.engines.bfl.http import Http, JobDeadline, ProviderTimeouts
from worker.images import decoding
from worker.images.decoding import decode_provider_image


@pytest.mark.parametrize(
    "reply",
    [
        *[Reply(status, raw=b"expired") for status in (400, 401, 403, 404, 410)],
        Reply(302, headers={"Location": "http://10.0.0.1/image"}),
        Reply(raw=b"<html>One moment please"),
    ],
)
def test_an_expired_image_url_is_replaced_by_polling_again(table: Table, reply: Reply) -> None:
    def ready(number: int) -> Reply:
        return state("Ready", result={"sample": f"{table.provider.delivery_url}/image?sig={number}"})

    table.provider.polls = [ready(1), ready(2), ready(3)]
    table.provider.downloads = [reply, reply, Reply(raw=image())]

    assert len(table.made()) == 1
    assert [table.provider.count(f"/image?sig={number}") for number in (1, 2, 3)] == [1, 1, 1]
    assert len(table.provider.posts) == 1


def test_a_forbidden_image_url_is_replaced_by_polling_again(table: Table) -> None:
    table.provider.polls = [state("Ready", result={"sample": "http://10.0.0.1/image"}), table.provider.ready()]

    assert len(table.made()) == 1


def test_redirects_of_images_are_followed(table: Table) -> None:
    elsewhere = Reply(302, headers={"Location": "/image/here"})
    table.provider.downloads = [elsewhere, elsewhere, Reply(raw=image())]

    assert len(table.made()) == 1
    assert table.provider.count("/v1/get_result") == 1


def test_downloads_are_repeated_while_the_server_fails(table: Table) -> None:
    whole = image()
    bad = [refused(500), Reply(hang_up=True), Reply(raw=whole[:100], claim=len(whole)), Reply(seconds=2, raw=whole)]
    table.provider.downloads = [*bad, Reply(raw=whole)]

    assert len(table.made()) == 1


def test_a_download_that_trickles_ends_at_the_deadline(table: Table) -> None:
    table.provider.downloads = [Reply(raw=image(), trickle=True)]
    table.seconds = 1.0
    begin = time.monotonic()

    with pytest.raises(TimedOut):
        table.made()

    assert time.monotonic() - begin < 30


def test_the_key_is_sent_to_the_api_and_not_to_the_image_host(table: Table) -> None:
    table.made()

    received = table.provider.requests
    assert [one.headers.get("x-key") for one in received] == [KEY, KEY, None]
    assert KEY not in json.dumps([dict(one.headers) for one in received if one.path.startswith("/image")])


@pytest.mark.parametrize(
    "url",
    [
        "http://delivery-eu1.bfl.ai/a",
        "https://127.0.0.1/a",
        "https://10.1.2.3/a",
        "https://169.254.169.254/latest",
        "https://[::1]/a",
        "https://localhost/a",
        "https://metadata.internal/a",
        "https://example.com:8443/a",
        "file:///etc/passwd",
        "",
    ],
)
def test_images_are_downloaded_from_public_https_only(url: str) -> None:
    http = Http("https://api.bfl.ai", SecretStr(KEY), ProviderTimeouts())

    with pytest.raises(ForbiddenUrl):
        http.fetch(url, JobDeadline(RecordingWatch(), 5))


def test_images_are_downloaded_through_the_egress_proxy() -> None:
    """Where all else is blocked, images that are paid for would be lost."""
    with connect_proxy() as proxy:
        http = Http("https://api.bfl.ai", SecretStr(KEY), QUICK, EgressProxy.parse(proxy.url))

        with pytest.raises(TimedOut):
            http.fetch("https://delivery.bfl.example/a", JobDeadline(RecordingWatch(), 0.1))

    assert proxy.requests[0] == "CONNECT delivery.bfl.example:443"


@pytest.mark.parametrize("url", ["https://10.1.2.3/a", "http://169.254.169.254/latest", "ftp://127.0.0.1/a"])
def test_a_provider_on_this_machine_cannot_redirect_to_other_machines(table: Table, url: str) -> None:
    ready = Reply(body={"id": "x", "status": "Ready", "result": {"sample": url}})
    # The time limit ends the last request.
    table.provider.polls = [ready, Reply(seconds=2)]
    table.seconds = 1.4

    with pytest.raises(TimedOut, match="forbidden image URL"):
        table.made()

    assert table.provider.count("/image") == 0


def test_an_image_that_is_too_large_is_refused(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_IMAGE_BYTES", 1000)

    with pytest.raises(InvalidOutput, match="response is too large"):
        table.made()

    assert table.provider.count("/image") == 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_format_of_an_image_is_detected_from_its_bytes(table: Table, kind: str) -> None:
    table.provider.downloads = [Reply(raw=image(kind, 48, 32), headers={"Content-Type": "text/html"})]

    (made,) = table.made(output_format="png")

    assert made.pixels.shape == (32, 48, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        image()[:200],
        image("JPEG")[:300],
        image("WEBP")[:60],
        b"\x89PNG\r\n\x1a\n",
        b"RIFF1234WEBP",
    ],
    ids=["empty", "html", "half a PNG", "half a JPEG", "half a WebP", "PNG's name", "WebP's name"],
)
def test_a_broken_image_is_invalid_output(data: bytes) -> None:
    with pytest.raises(InvalidOutput):
        decode_provider_image(data)


def test_an_image_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)

    with pytest.raises(InvalidOutput, match="64x64"):
        decode_provider_image(image())


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_decompression_bomb_is_invalid_output(side: int) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))

    with pytest.raises(InvalidOutput):
        decode_provider_image(
            b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
        )
