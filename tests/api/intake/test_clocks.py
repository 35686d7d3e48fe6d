"""An API on a host whose clock is days ahead: all go by the store's clock."""

import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import requests

from tests.api.clients import ALICE, Client
from tests.stack import Api, Stack, free_port

#: Longer than an image link lives.
AHEAD = """
import datetime, time
class Ahead(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(days=3)
real = time.time
datetime.datetime, time.time = Ahead, lambda: real() + 3 * 86_400
from api.main import main
main()
"""
MOMENT = timedelta(seconds=30)


@pytest.fixture(scope="module")
def ahead(keyed: Stack) -> Iterator[Api]:
    port = free_port()
    process = keyed.run([sys.executable, "-c", AHEAD], SD_PORT=str(port))
    process.wait_for("Uvicorn running on")
    yield Api(process, f"http://127.0.0.1:{port}")
    process.kill()


def test_jobs_are_made_and_ended_at_the_same_time_everywhere(keyed: Stack, alice: Client, ahead: Api) -> None:
    slow = {"num_inference_steps": 100, "metadata": {"simulate": {"seconds": 30}}}
    here = alice.submit(**slow)
    there = Client(ahead, ALICE).submit(**{**slow, "num_inference_steps": 50})

    cancelled = Client(ahead, ALICE).request("DELETE", there["links"]["self"]).json()
    alice.request("DELETE", here["links"]["self"])

    begun, other = (datetime.fromisoformat(job["created_at"]) for job in (here, there))
    assert begun <= other < begun + MOMENT
    assert cancelled["state"] == "cancelled"
    assert begun <= datetime.fromisoformat(cancelled["finished_at"]) < begun + MOMENT
    assert 0 <= cancelled["timings"]["total_ms"] < MOMENT.total_seconds() * 1000


def test_image_links_of_one_open_at_the_other(keyed: Stack, alice: Client, ahead: Api) -> None:
    url = alice.generate()["images"][0]["url"]

    assert requests.get(url.replace(keyed.api.url, ahead.url), timeout=10).status_code == 200
    assert requests.get(
        Client(ahead, ALICE).generate()["images"][0]["url"].replace(ahead.url, keyed.api.url), timeout=10
    ).ok


def test_jobs_have_not_waited_for_days(idle: Stack) -> None:
    port = free_port()
    process = idle.run([sys.executable, "-c", AHEAD], SD_PORT=str(port))
    process.wait_for("Uvicorn running on")
    ahead = Api(process, f"http://127.0.0.1:{port}")
    ahead.post("/api/jobs", {"prompt": "x"})

    waited = [line for line in ahead.get("/metrics").text.splitlines() if line.startswith("imagegen_queue_oldest")]

    assert 0 < max(float(line.split()[-1]) for line in waited) < 86_400
