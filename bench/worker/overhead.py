"""The overhead of one synchronous request beside the rendering."""

import http.client
import json
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from bench.figures import Figure, Goal, Scale, compare, seconds_of
from bench.service import service
from tests.stack import Api

#: For 1024x1024 with FLUX.2 Klein 4B on an H100, according to its publisher.
KLEIN_SECONDS = 0.57


def measure(scale: Scale) -> Iterator[Figure]:
    body = {"prompt": "x", "width": 1024, "height": 1024, "metadata": {"simulate": {"seconds": KLEIN_SECONDS}}}
    with service("null") as stack:
        call = caller(stack.api, body)
        call()
        result = compare(lambda: seconds_of(call), lambda: KLEIN_SECONDS, scale, "a model that takes 570 ms")
    yield result.figure(
        "sync request at 1024x1024, model takes 570 ms / 570 ms",
        Goal(1.05),
        f"{(result.our_median - KLEIN_SECONDS) * 1000:.1f} ms more",
    )


def caller(api: Api, body: object) -> Callable[[], None]:
    """Returns a call that sends the body and waits for the finished job."""
    payload, headers = json.dumps(body), {"content-type": "application/json"}

    def call() -> None:
        # A new connection each time: the server may close an idle one.
        connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=120)
        connection.request("POST", "/api/txt2img", payload, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        assert response.status == 200, content

    return call
