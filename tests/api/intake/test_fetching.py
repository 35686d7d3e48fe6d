"""Images that requests name by their address."""

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

from api.intake import fetching
from api.intake.fetching import ImageFetcher
from shared.errors import InvalidImage, QueueFull
from shared.net.outbound import OutboundClient
from tests.api.images import encoded, half_mask, noise_png, post_image, scene
from tests.api.problem import assert_problem, pointers
from tests.shared.outbound.proxies import proxying
from tests.shared.outbound.servers import OK, Act, Script, Server, again, moved, say, serve
from tests.stack import Api, Stack

SCENE, MASK = encoded(scene()), encoded(half_mask())
MAX_BYTES = 200_000


def body(data: bytes, kind: str = "image/png") -> Act:
    return say(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)


@pytest.fixture(scope="module")
def gallery() -> Iterator[Server]:
    with serve(Script(say(OK))) as server:
        yield server


@pytest.fixture(scope="module")
def api(null: Stack, gallery: Server) -> Api:
    """A process that may ask the gallery, though it is on this machine."""
    return null.start_api(SD_WEBHOOK_ALLOW=origin(gallery), SD_MAX_IMAGE_BYTES=str(MAX_BYTES))


@pytest.fixture
def shown(gallery: Server) -> Server:
    gallery.requests.clear()
    gallery.script.act = body(SCENE)
    return gallery


def origin(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def asked(api: Api, image: object, path: str = "/api/txt2img", **fields: Any) -> requests.Response:
    return api.post(path, {"prompt": "x", "seed": 7, "image": image, **fields})


def test_an_image_is_fetched_through_the_egress_proxy(null: Stack, shown: Server) -> None:
    with proxying() as proxy:
        proxy.ports["images.example.com:80"] = shown.port
        api = null.start_api(SD_EGRESS_PROXY=proxy.url)

        answered = asked(api, "http://images.example.com/a.png")

        assert answered.status_code == 200, answered.text
        assert proxy.asked == ["CONNECT images.example.com:80"]


@contextmanager
def never_answering(server: Server) -> Iterator[threading.Event]:
    """Answers once the block ends; the event tells that somebody waits."""
    came, end = threading.Event(), threading.Event()

    def act(_: Any) -> None:
        came.set()
        end.wait(20)

    server.script.act = act
    try:
        yield came
    finally:
        end.set()


def test_a_image_is_the_same_sent_or_fetched(api: Api, shown: Server) -> None:
    sent, fetched = post_image(api, SCENE).json(), asked(api, f"{origin(shown)}/scene?sig=a%2Fb").json()

    assert fetched["request"] == sent["request"]
    assert shown.requests[0].line == "GET /scene?sig=a%2Fb HTTP/1.1"


def test_every_place_for_a_image_takes_an_address(api: Api, shown: Server) -> None:
    images = iter([SCENE, encoded(scene(32, 32)), MASK] * 2)
    shown.script.act = lambda connection: body(next(images))(connection)
    urls = [f"{origin(shown)}/{number}" for number in range(3)]

    for path, status in [("/api/jobs", 202), ("/api/img2img", 200)]:
        answer = asked(api, urls[:2], path, mask=urls[2])
        assert answer.status_code == status, answer.text

    assert [request.line.split()[1] for request in shown.requests] == ["/0", "/1", "/2"] * 2


@pytest.mark.parametrize("fields", [{"width": 7}, {"prompt": ""}, {"mask": "5ecret"}, {"seed": -1}, {"no": 1}], ids=str)
def test_nobody_is_asked_for_a_image_where_something_else_is_wrong(
    api: Api, shown: Server, fields: dict[str, Any]
) -> None:
    answer = asked(api, origin(shown), **fields)

    assert_problem(answer, 422, "invalid-request")
    assert shown.requests == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_image_is_what_its_bytes_say(api: Api, shown: Server, kind: str) -> None:
    shown.script.act = body(encoded(scene(), kind), "text/html")

    assert asked(api, origin(shown)).status_code == 200


def test_two_redirects_are_followed_and_no_more(api: Api, shown: Server) -> None:
    steps = iter([moved("/a"), moved("/b", 308), body(SCENE)])
    shown.script.act = lambda connection: next(steps)(connection)
    assert asked(api, origin(shown)).status_code == 200

    shown.script.act = moved("/")
    answer = asked(api, origin(shown))
    assert_problem(answer, 422, "invalid-image")
    assert "HTTP 302" in answer.json()["detail"]


@pytest.mark.parametrize(
    "act",
    [
        say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        say(b"220 mail.example.com ESMTP\r\n"),
        body(b"<html>", "image/png"),
        body(b"", "image/png"),
        body(SCENE[:30]),
        body(noise_png(300, 300)),
        again(SCENE, b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
    ids=["404", "half", "no HTTP", "HTML", "nothing", "half a PNG", "too large", "without end"],
)
def test_what_is_no_image_is_told_with_its_place(null: Stack, api: Api, shown: Server, act: Act) -> None:
    shown.script.act = act

    answer = asked(api, [origin(shown)])

    assert_problem(answer, 422, "invalid-image")
    assert answer.json()["detail"].startswith("/image/0: ")
    assert "127.0.0.1" not in answer.text
    assert [path for path in null.outputs.glob("inputs/.*") if any(path.iterdir())] == []


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/", "http://10.0.0.1/", "file:///etc/passwd", "http://127.0.0.1:1/"]
)
def test_a_redirect_inside_is_told_with_its_place(api: Api, shown: Server, location: str) -> None:
    shown.script.act = moved(location)

    answer = asked(api, origin(shown))

    assert_problem(answer, 422, "invalid-request")
    assert pointers(answer) == ["/image"]


def test_an_api_that_nobody_told_asks_no_private_address(null: Stack, shown: Server) -> None:
    answer = asked(null.api, origin(shown))

    assert_problem(answer, 422, "invalid-request")
    assert pointers(answer) == ["/image"]
    assert shown.requests == []


def test_others_are_served_while_a_image_does_not_come(api: Api, shown: Server) -> None:
    with ThreadPoolExecutor() as pool, never_answering(shown) as came:
        waiting = [
            pool.submit(requests.post, f"{api.url}/api/jobs", json={"prompt": "x", "image": origin(shown)}, timeout=30)
            for _ in range(8)
        ]
        assert came.wait(10)

        begin = time.monotonic()
        assert post_image(api, SCENE).status_code == 200
        assert time.monotonic() - begin < 5

    assert {future.result().status_code for future in waiting} == {422}


def test_a_image_is_waited_for_so_long_and_no_longer(shown: Server) -> None:
    fetcher = ImageFetcher(OutboundClient([origin(shown)]))
    shown.script.act = again(b"x", b"HTTP/1.1 200 OK\r\n\r\n", 0.05)
    begin = time.monotonic()

    with pytest.raises(InvalidImage, match="longer"):
        asyncio.run(fetcher.fetch(origin(shown), "/image", 0.3, 1000, lambda _: None))

    assert time.monotonic() - begin < 2


def test_who_waits_too_long_for_a_turn_is_told_to_come_again(shown: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_THREADS", 1)
    monkeypatch.setattr(fetching, "MAX_QUEUED_SECONDS", 0.2)
    fetcher = ImageFetcher(OutboundClient([origin(shown)]))

    async def ask(seconds: float) -> None:
        await fetcher.fetch(origin(shown), "/image", seconds, 1000, lambda _: None)

    async def both() -> tuple[BaseException | None, ...]:
        return await asyncio.gather(ask(1.0), ask(0.1), return_exceptions=True)

    with never_answering(shown):
        first, second = asyncio.run(both())

    assert isinstance(first, InvalidImage)
    assert isinstance(second, QueueFull)


def test_images_to_fetch_are_paid_for_before_anybody_is_asked(null: Stack, shown: Server, tmp_path: Path) -> None:
    """Of twenty requests at once, with five to spare, one fetches its images and is in debt for them."""
    rate = {"SD_REQUESTS_PER_SECOND": "1", "SD_REQUEST_BURST": "5", "SD_REDIS_PREFIX": "paid:"}
    # In a folder of its own: nobody will do the job that is accepted, and its images stay.
    few = null.start_api(SD_WEBHOOK_ALLOW=origin(shown), SD_OUTPUT_DIR=str(tmp_path), **rate)
    with ThreadPoolExecutor(20) as many:
        codes = list(many.map(lambda _: asked(few, [origin(shown)] * 8, "/api/jobs").status_code, range(20)))

    assert codes.count(429) == 19
    assert len(shown.requests) == 8
