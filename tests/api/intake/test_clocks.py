"""An API on a host whose clock is days ahead: Redis has the clock that counts."""

import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import requests

from tests.api.clients import ALICE, Client
from tests.stack import Api, Stack, free_port

#: Longer than the lifetime of an image link.
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
TOLERANCE = timedelta(seconds=30)


@pytest.fixture(scope="module")
def ahead(keyed: Stack) -> Iterator[Api]:
    port = free_port()
    process = keyed.run([sys.executable, "-c", AHEAD], SD_PORT=str(port))
    process.wait_for("Uvicorn running on")
    yield Api(process, f"http://127.0.0.1:{port}")
    process.kill()


def test_times_of_jobs_come_from_the_clock_of_redis(keyed: Stack, alice: Client, ahead: Api) -> None:
    slow = {"num_inference_steps": 100, "metadata": {"simulate": {"seconds": 30}}}
    first = alice.submit(**slow)
    second = Client(ahead, ALICE).submit(**{**slow, "num_inference_steps": 50})

    cancelled = Client(ahead, ALICE).request("DELETE", second["links"]["self"]).json()
    alice.request("DELETE", first["links"]["self"])

    first_time, second_time = (datetime.fromisoformat(job["created_at"]) for job in (first, second))
    assert first_time <= second_time < first_time + TOLERANCE
    assert cancelled["state"] == "cancelled"
    assert first_time <= datetime.fromisoformat(cancelled["finished_at"]) < first_time + TOLERANCE
    assert 0 <= cancelled["timings"]["total_ms"] < TOLERANCE.total_seconds() * 1000


def test_image_links_work_across_hosts_with_different_clocks(keyed: Stack, alice: Client, ahead: Api) -> None:
    url = alice.generate()["images"][0]["url"]

    assert requests.get(url.replace(keyed.api.url, ahead.url), timeout=10).status_code == 200
    assert requests.get(
        Client(ahead, ALICE).generate()["images"][0]["url"].replace(ahead.url, keyed.api.url), timeout=10
    ).ok


def test_queue_ages_come_from_the_clock_of_redis(idle: Stack) -> None:
    port = free_port()
    process = idle.run([sys.executable, "-c", AHEAD], SD_PORT=str(port))
    process.wait_for("Uvicorn running on")
    ahead = Api(process, f"http://127.0.0.1:{port}")
    ahead.post("/api/jobs", {"prompt": "x"})

    ages = [line for line in ahead.get("/metrics").text.splitlines() if line.startswith("imagegen_queue_oldest")]

    assert 0 < max(float(line.split()[-1]) for line in ages) < 86_400
