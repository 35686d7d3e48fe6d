"""What one request costs beside the work itself: a caller who waits for one image."""

import http.client
import json
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from bench.figures import Figure, Goal, Scale, compare, seconds_of
from bench.service import service
from tests.stack import Api

#: What FLUX.2 klein 4B takes for 1024x1024 on an H100, by its publisher.
KLEIN_SECONDS = 0.57


def measure(scale: Scale) -> Iterator[Figure]:
    body = {"prompt": "x", "width": 1024, "height": 1024, "metadata": {"simulate": {"seconds": KLEIN_SECONDS}}}
    with service("null") as stack:
        ask = caller(stack.api, body)
        ask()
        result = compare(lambda: seconds_of(ask), lambda: KLEIN_SECONDS, scale, "a model that takes 570 ms")
    yield result.figure(
        "sync request at 1024x1024, model takes 570 ms / 570 ms",
        Goal(1.05),
        f"{(result.our_median - KLEIN_SECONDS) * 1000:.1f} ms more",
    )


def caller(api: Api, body: object) -> Callable[[], None]:
    """Sends the body and waits for the finished job."""
    content, headers = json.dumps(body), {"content-type": "application/json"}

    def ask() -> None:
        # A connection of its own: between two, the server may hang up on one that is idle.
        connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=120)
        connection.request("POST", "/api/txt2img", content, headers)
        answer = connection.getresponse()
        told = answer.read()
        connection.close()
        assert answer.status == 200, told

    return ask
