"""What becomes of jobs while Redis is killed and comes back."""

import time
from concurrent.futures import ThreadPoolExecutor

from tests.faults.service import Service
from tests.valkey import Valkey

#: Callers are answered within this, whatever Redis does.
SOON = 3.0
AWAY_SECONDS = 1.0


def test_jobs_outlive_a_killed_redis_and_callers_are_told_to_come_back(service: Service, valkey: Valkey) -> None:
    running = service.begin(3.0)
    waiting = [service.submit() for _ in range(100)]

    valkey.kill()
    begin = time.monotonic()
    with ThreadPoolExecutor(10) as callers:
        refused = list(callers.map(lambda _: service.api.post("/api/jobs", {"prompt": "x"}), range(10)))
    took = time.monotonic() - begin
    time.sleep(max(0, AWAY_SECONDS - took))
    valkey.start()

    assert took < SOON
    assert {answer.status_code for answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert (service.wait_until_done(running).state, service.job(running).attempt) == ("succeeded", 1)
    assert {service.wait_until_done(job_id).state for job_id in waiting} == {"succeeded"}


def test_new_jobs_are_taken_and_run_once_redis_is_back(service: Service, valkey: Valkey) -> None:
    valkey.kill()
    valkey.start()

    job_id = service.submit()

    assert service.wait_until_done(job_id).state == "succeeded"
