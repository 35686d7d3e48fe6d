"""Images that requests link to."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from api.intake.images import fetching
from api.intake.images.fetching import ImageFetcher
from shared.errors import InvalidImage, QueueFull
from shared.net.outbound import OutboundClient
from tests.api.images import encoded, half_mask, noise_png, post_image, scene
from tests.api.problem import assert_problem, pointers
from tests.shared.outbound.proxies import connect_proxy
from tests.shared.outbound.servers import OK, Act, Script, Server, redirect, repeat, send, serve
from tests.stack import Api, Stack

SCENE, MASK = encoded(scene()), encoded(half_mask())
MAX_BYTES = 200_000


def body(data: bytes, kind: str = "image/png") -> Act:
    return send(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)


@pytest.fixture(scope="module")
def gallery() -> Iterator[Server]:
    with serve(Script(send(OK))) as server:
        yield server


@pytest.fixture(scope="module")
def api(null: Stack, gallery: Server) -> Api:
    """An API that may fetch from the gallery, although that is on this machine."""
    return null.start_api(SD_WEBHOOK_ALLOW=origin(gallery), SD_MAX_IMAGE_BYTES=str(MAX_BYTES))


@pytest.fixture
def shown(gallery: Server) -> Server:
    gallery.requests.clear()
    gallery.script.act = body(SCENE)
    return gallery


def origin(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def request_image(api: Api, image: object, path: str = "/api/txt2img", **fields: Any) -> requests.Response:
    return api.post(path, {"prompt": "x", "seed": 7, "image": image, **fields})


def test_an_image_is_fetched_through_the_egress_proxy(null: Stack, shown: Server) -> None:
    with connect_proxy() as proxy:
        proxy.ports["images.example.com:80"] = shown.port
        api = null.start_api(SD_EGRESS_PROXY=proxy.url)

        answer = request_image(api, "http://images.example.com/a.png")

        assert answer.status_code == 200, answer.text
        assert proxy.requests == ["CONNECT images.example.com:80"]


@contextmanager
def never_answering(server: Server) -> Iterator[threading.Event]:
    """Answers when the block ends. The event is set when a request waits."""
    arrived, end = threading.Event(), threading.Event()

    def act(_: Any) -> None:
        arrived.set()
        end.wait(20)

    server.script.act = act
    try:
        yield arrived
    finally:
        end.set()


def test_a_fetched_image_is_treated_like_a_sent_one(api: Api, shown: Server) -> None:
    sent, fetched = post_image(api, SCENE).json(), request_image(api, f"{origin(shown)}/scene?sig=a%2Fb").json()

    assert fetched["request"] == sent["request"]
    assert shown.requests[0].line == "GET /scene?sig=a%2Fb HTTP/1.1"


def test_every_image_field_accepts_a_url(api: Api, shown: Server) -> None:
    images = iter([SCENE, encoded(scene(32, 32)), MASK] * 2)
    shown.script.act = lambda connection: body(next(images))(connection)
    urls = [f"{origin(shown)}/{number}" for number in range(3)]

    for path, status in [("/api/jobs", 202), ("/api/img2img", 200)]:
        answer = request_image(api, urls[:2], path, mask=urls[2])
        assert answer.status_code == status, answer.text

    assert [request.line.split()[1] for request in shown.requests] == ["/0", "/1", "/2"] * 2


@pytest.mark.parametrize("fields", [{"width": 7}, {"prompt": ""}, {"mask": "5ecret"}, {"seed": -1}, {"no": 1}], ids=str)
def test_no_image_is_fetched_for_an_invalid_request(api: Api, shown: Server, fields: dict[str, Any]) -> None:
    answer = request_image(api, origin(shown), **fields)

    assert_problem(answer, 422, "invalid-request")
    assert shown.requests == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_format_comes_from_the_bytes_and_not_the_content_type(api: Api, shown: Server, kind: str) -> None:
    shown.script.act = body(encoded(scene(), kind), "text/html")

    assert request_image(api, origin(shown)).status_code == 200


def test_at_most_two_redirects_are_followed(api: Api, shown: Server) -> None:
    steps = iter([redirect("/a"), redirect("/b", 308), body(SCENE)])
    shown.script.act = lambda connection: next(steps)(connection)
    assert request_image(api, origin(shown)).status_code == 200

    shown.script.act = redirect("/")
    answer = request_image(api, origin(shown))
    assert_problem(answer, 422, "invalid-image")
    assert "HTTP 302" in answer.json()["detail"]


@pytest.mark.parametrize(
    "act",
    [
        send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        send(b"220 mail.example.com ESMTP\r\n"),
        body(b"<html>", "image/png"),
        body(b"", "image/png"),
        body(SCENE[:30]),
        body(noise_png(300, 300)),
        repeat(SCENE, b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
    ids=["404", "half", "no HTTP", "HTML", "nothing", "half a PNG", "too large", "without end"],
)
def test_a_failed_fetch_is_refused_with_its_pointer(null: Stack, api: Api, shown: Server, act: Act) -> None:
    shown.script.act = act

    answer = request_image(api, [origin(shown)])

    assert_problem(answer, 422, "invalid-image")
    assert pointers(answer) == ["/image/0"]
    assert "127.0.0.1" not in answer.text
    assert [path for path in null.outputs.glob("inputs/.*") if any(path.iterdir())] == []


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/", "http://10.0.0.1/", "file:///etc/passwd", "http://127.0.0.1:1/"]
)
def test_a_redirect_to_a_private_address_is_refused_with_its_pointer(api: Api, shown: Server, location: str) -> None:
    shown.script.act = redirect(location)

    answer = request_image(api, origin(shown))

    assert_problem(answer, 422, "invalid-request")
    assert pointers(answer) == ["/image"]


def test_private_addresses_are_refused_by_default(null: Stack, shown: Server) -> None:
    answer = request_image(null.api, origin(shown))

    assert_problem(answer, 422, "invalid-request")
    assert pointers(answer) == ["/image"]
    assert shown.requests == []


def test_a_slow_fetch_does_not_delay_other_requests(api: Api, shown: Server) -> None:
    with ThreadPoolExecutor() as pool, never_answering(shown) as arrived:
        waiting = [
            pool.submit(requests.post, f"{api.url}/api/jobs", json={"prompt": "x", "image": origin(shown)}, timeout=30)
            for _ in range(8)
        ]
        assert arrived.wait(30)

        assert post_image(api, SCENE).status_code == 200
        assert not any(future.done() for future in waiting)

    assert {future.result().status_code for future in waiting} == {422}


def test_a_fetch_times_out(shown: Server) -> None:
    fetcher = ImageFetcher(OutboundClient([origin(shown)]))
    shown.script.act = repeat(b"x", b"HTTP/1.1 200 OK\r\n\r\n", 0.05)
    begin = time.monotonic()

    with pytest.raises(InvalidImage) as raised:
        asyncio.run(fetcher.fetch(origin(shown), "/image", 0.3, 1000, lambda _: None))

    assert "timed out" in raised.value.errors[0].detail
    assert time.monotonic() - begin < 30


def test_a_fetch_that_waits_too_long_for_a_thread_is_refused(shown: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_THREADS", 1)
    monkeypatch.setattr(fetching, "MAX_QUEUED_SECONDS", 0.2)
    fetcher = ImageFetcher(OutboundClient([origin(shown)]))

    async def fetch(seconds: float) -> None:
        await fetcher.fetch(origin(shown), "/image", seconds, 1000, lambda _: None)

    async def both() -> tuple[BaseException | None, ...]:
        return await asyncio.gather(fetch(1.0), fetch(0.1), return_exceptions=True)

    with never_answering(shown):
        first, second = asyncio.run(both())

    assert isinstance(first, InvalidImage)
    assert isinstance(second, QueueFull)


def test_slow_servers_of_one_caller_leave_threads_to_others(shown: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_THREADS", 2)
    monkeypatch.setattr(fetching, "MAX_THREADS_PER_CALLER", 1)

    async def fetch(fetcher: ImageFetcher, server: Server, caller: str) -> None:
        await fetcher.fetch(origin(server), "/image", 20, len(SCENE), lambda _: None, caller)

    async def fetch_beside_slow_ones(quick: Server) -> bool:
        fetcher = ImageFetcher(OutboundClient([origin(shown), origin(quick)]))
        slow = [asyncio.ensure_future(fetch(fetcher, shown, "alice")) for _ in range(3)]
        assert await asyncio.to_thread(arrived.wait, 30)
        await fetch(fetcher, quick, "bob")
        return not any(task.done() for task in slow)

    with serve(Script(body(SCENE))) as quick, never_answering(shown) as arrived:
        assert asyncio.run(fetch_beside_slow_ones(quick))


def test_fetches_count_against_the_rate_limit_before_they_start(null: Stack, shown: Server, tmp_path: Path) -> None:
    """Of twenty concurrent requests with a burst of five, one fetches its images, which exceeds the burst."""
    rate = {"SD_REQUESTS_PER_SECOND": "0.01", "SD_REQUEST_BURST": "5", "SD_REDIS_PREFIX": "paid:"}
    # In its own folder, because no worker runs the accepted job and its images stay.
    limited = null.start_api(SD_WEBHOOK_ALLOW=origin(shown), SD_OUTPUT_DIR=str(tmp_path), **rate)
    with ThreadPoolExecutor(20) as many:
        codes = list(
            many.map(lambda _: request_image(limited, [origin(shown)] * 8, "/api/jobs").status_code, range(20))
        )

    assert codes.count(429) == 19
    assert len(shown.requests) == 8
