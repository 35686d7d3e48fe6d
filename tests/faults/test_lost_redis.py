"""Jobs survive a killed, a full and a replaced Redis, and a broker that loses its messages."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shared.jobs.types import Backend
from shared.redis.keys import Keys
from shared.redis.store import connect
from tests.faults.service import Service
from tests.stack import Stack, free_port, valkey_server
from tests.support.valkey import Valkey
from tests.worker.engines.bfl.conftest import cloud_settings
from tests.worker.engines.bfl.provider import ReceivedRequest, Reply, provider, state
from tests.worker.new_jobs import run_job, simulated, start_job

#: Callers get an answer within this time, whatever Redis does: 3 s, and the rest is for a busy machine.
SOON = 15.0
DOWN_SECONDS = 1.0


def test_jobs_survive_a_killed_redis_and_callers_get_503(service: Service, valkey: Valkey) -> None:
    running = service.start_job(3.0)
    waiting = [service.submit() for _ in range(100)]

    valkey.kill()
    begin = time.monotonic()
    with ThreadPoolExecutor(10) as callers:
        refused = list(callers.map(lambda _: service.api.post("/api/jobs", {"prompt": "x"}), range(10)))
    took = time.monotonic() - begin
    time.sleep(max(0, DOWN_SECONDS - took))
    valkey.start()

    assert took < SOON
    assert {answer.status_code for answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert (service.wait_until_done(running).state, service.job(running).attempt) == ("succeeded", 1)
    assert {service.wait_until_done(job_id).state for job_id in waiting} == {"succeeded"}


def test_new_jobs_run_once_redis_is_back(service: Service, valkey: Valkey) -> None:
    valkey.kill()
    valkey.start()

    job_id = service.submit()

    assert service.wait_until_done(job_id).state == "succeeded"


def test_a_full_redis_takes_no_new_job_and_finishes_those_that_it_has(service: Service) -> None:
    running = [service.start_job(1.0) for _ in service.null_workers]
    waiting = [service.submit() for _ in range(20)]

    service.store.config_set("maxmemory", 1)
    try:
        refused = service.api.post("/api/jobs", {"prompt": "x"})
        ended = [service.wait_until_done(job_id) for job_id in (*running, *waiting)]
        refused_again = [service.api.post("/api/jobs", {"prompt": "x"}) for _ in range(2)]
    finally:
        service.store.config_set("maxmemory", 0)

    assert [response.status_code for response in (refused, *refused_again)] == [503, 503, 503]
    assert {(job.state, job.attempt) for job in ended} == {("succeeded", 1)}


def test_jobs_run_although_the_broker_lost_every_message(service: Service) -> None:
    busy = [service.start_job(4.0) for _ in service.null_workers]
    waiting = [service.submit() for _ in range(5)]

    service.store.delete(Keys(service.prefix).wake_ups(Backend.NULL))

    assert {service.wait_until_done(known).state for known in [*busy, *waiting]} == {"succeeded"}


def test_a_worker_with_jobs_in_work_outlives_a_killed_redis(valkey: Valkey, tmp_path: Path) -> None:
    polled, finish = threading.Event(), threading.Event()

    def poll(request: ReceivedRequest) -> Reply:
        polled.set()
        return bfl.ready()(request) if finish.is_set() else state("Pending")

    with (
        provider() as bfl,
        Service(valkey.url, tmp_path, ("flux-api-0", "housekeeper", "api-0"), **cloud_settings(bfl)) as service,
    ):
        bfl.polls = [poll]
        service.start_missing()
        worker = service.processes["flux-api-0"]
        in_work = service.submit()
        assert polled.wait(SOON)

        # The connection on which it waits for the next wake-up goes last, so it is lost while others are being closed.
        worker.send(signal.SIGSTOP)
        for kind in ("pubsub", "normal"):
            service.store.client_kill_filter(_type=kind, skipme=True)
        valkey.kill()
        worker.send(signal.SIGCONT)
        worker.wait_for("Trying to re-establish the connection")
        valkey.start()
        finish.set()

        assert service.wait_until_done(in_work).state == "succeeded"
        assert service.wait_until_done(service.submit()).state == "succeeded"
        assert service.processes["flux-api-0"].pid == worker.pid
        assert service.is_running("flux-api-0")
        assert len(bfl.posts) == 2


def test_a_worker_that_is_connected_again_runs_jobs_whose_wake_up_was_lost(valkey: Valkey, tmp_path: Path) -> None:
    with Service(valkey.url, tmp_path, ("null-0", "api-0")) as service:
        service.start_missing()
        running = service.start_job(1.0)
        waiting = service.submit()
        service.store.delete(Keys(service.prefix).wake_ups(Backend.NULL))

        for kind in ("pubsub", "normal"):
            service.store.client_kill_filter(_type=kind, skipme=True)

        assert {service.wait_until_done(job_id).state for job_id in (running, waiting)} == {"succeeded"}


def test_a_failover_behind_one_name_needs_no_restart(tmp_path: Path) -> None:
    name, ports = tmp_path / "redis", [str(free_port()) for _ in range(2)]
    with (
        valkey_server(tmp_path, "--port", ports[0]) as old_url,
        valkey_server(tmp_path, "--port", ports[1], "--replicaof", f"127.0.0.1 {ports[0]}") as new_url,
        Stack(f"unix://{name}", tmp_path, SD_BACKENDS="null") as stack,
    ):
        name.symlink_to(old_url.removeprefix("unix://"))
        worker, api = stack.start_worker("null"), stack.start_api()
        running = start_job(stack, **simulated(seconds=2))
        old, new = connect(old_url), connect(new_url)
        while not old.wait(1, 1000):
            pass

        # Connections to the old server stay open.
        new.replicaof("no", "one")
        old.replicaof("127.0.0.1", ports[1])
        name.unlink()
        name.symlink_to(new_url.removeprefix("unix://"))

        job = api.wait_until_done(running)
        assert (job["state"], job["attempt"]) == ("succeeded", 1)
        assert run_job(stack, prompt="x")["attempt"] == 1
        assert worker.is_running
