"""Jobs survive killed, suspended and stopping workers."""

import signal
import time

from tests.faults.processes import child_of, children_of, is_alive, kill_process_tree
from tests.faults.service import Service
from tests.support.polling import wait_until
from tests.support.valkey import Valkey

#: A lease lasts 10 s, and is checked every 2 s; the rest is for a busy machine.
SOON = 40.0


def other_worker(service: Service, name: str) -> str:
    (found,) = set(service.null_workers) - {name}
    return found


def test_a_job_is_retried_at_once_when_its_child_process_is_killed(service: Service) -> None:
    job_id = service.start_job(1.0)

    worker = service.processes[service.worker_of(job_id)]

    child_of(worker).kill()

    # Not by the housekeeper, once the lease of the job has expired.
    worker.wait_for(f"the worker of job {job_id} was lost; the job is requeued")
    assert service.wait_until_done(job_id).attempt == 2


def test_another_worker_retries_the_job_of_a_killed_worker(service: Service) -> None:
    job_id = service.start_job(1.0)
    killed = service.worker_of(job_id)
    children = [child.pid for child in children_of(service.processes[killed])]

    begin = time.monotonic()
    service.processes[killed].send(signal.SIGKILL)
    service.wait_for_retry(job_id)
    took = time.monotonic() - begin

    job = service.wait_until_done(job_id)
    assert took < SOON
    assert not any(map(is_alive, children))
    assert (job.state, job.attempt, job.losses) == ("succeeded", 2, 1)
    assert service.worker_of(job_id) == other_worker(service, killed)


def test_a_worker_commits_nothing_after_its_lease_expired(service: Service) -> None:
    job_id = service.start_job(1.0)
    stopped = service.processes[service.worker_of(job_id)]
    child = child_of(stopped)

    child.suspend()
    job = service.wait_until_done(job_id)
    child.resume()
    stopped.wait_for(f"job {job_id} was lost to another worker")

    assert (job.state, job.attempt) == ("succeeded", 2)
    assert service.job(job_id) == job


def test_a_rendered_image_is_recorded_by_another_worker_without_rendering_again(
    service: Service, valkey: Valkey
) -> None:
    job_id = service.start_job(2.0)
    with valkey.holding_writes():
        wait_until(lambda: service.find(f"{job_id}-0.png"))
        (image,) = service.find(f"{job_id}-0.png")
        made = image.stat()

        kill_process_tree(service.processes[service.worker_of(job_id)])

    assert service.wait_until_done(job_id).attempt == 2
    assert (image.stat().st_ino, image.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


def test_a_job_that_kills_every_worker_fails_and_others_overtake_it(service: Service) -> None:
    deadly = service.submit(simulate={"die": True})
    others = [service.submit() for _ in range(5)]

    job = service.wait_until_done(deadly)

    assert job.error is not None
    assert (job.error.code, job.attempt) == ("worker-lost", 3)
    assert {service.wait_until_done(job_id).state for job_id in others} == {"succeeded"}


def test_a_stopping_worker_finishes_its_job(service: Service) -> None:
    job_id = service.start_job(1.0)
    worker = service.processes[service.worker_of(job_id)]

    worker.send(signal.SIGTERM)

    assert worker.wait() == 0
    assert (service.job(job_id).state, service.job(job_id).attempt) == ("succeeded", 1)


def test_a_worker_whose_grace_period_ends_requeues_its_job(service: Service) -> None:
    name = "null-0"
    service.processes[name].stop()
    service.start(name, SD_SHUTDOWN_GRACE_SECONDS="1")
    service.wait_until_ready(name)
    service.processes["null-1"].send(signal.SIGSTOP)
    job_id = service.start_job(4)
    service.processes["null-1"].send(signal.SIGCONT)

    service.processes[name].send(signal.SIGTERM)

    job = service.wait_until_done(job_id)
    service.processes[name].wait_for(f"job {job_id} is requeued")
    assert (job.state, job.attempt, job.losses) == ("succeeded", 2, 0)
    assert service.processes[name].wait() == 0
    assert not {"Traceback", "ERROR"} & set(service.processes[name].output.split()), "an ordinary stop is no crash"
