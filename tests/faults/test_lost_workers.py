"""What becomes of a job whose worker is killed, stopped or told to end."""

import signal
import time

from tests.faults.processes import child_of, children_of, is_alive, kill_process_tree
from tests.faults.service import Service
from tests.polling import wait_until
from tests.valkey import Valkey

#: A lease lasts 10 s, and is looked at every 2 s.
SOON = 20.0


def other(service: Service, name: str) -> str:
    (found,) = set(service.renderers) - {name}
    return found


def test_a_job_whose_process_is_killed_is_run_again_at_once(service: Service) -> None:
    job_id = service.begin(1.0)

    killed = time.monotonic()
    child_of(service.processes[service.renderer_of(job_id)]).kill()
    service.runs_again(job_id)

    assert time.monotonic() - killed < 5
    assert service.wait_until_done(job_id).attempt == 2


def test_a_job_whose_worker_is_killed_is_run_by_another(service: Service) -> None:
    job_id = service.begin(1.0)
    killed = service.renderer_of(job_id)
    children = [child.pid for child in children_of(service.processes[killed])]

    begin = time.monotonic()
    service.processes[killed].send(signal.SIGKILL)
    service.runs_again(job_id)
    took = time.monotonic() - begin

    job = service.wait_until_done(job_id)
    assert took < SOON
    assert not any(map(is_alive, children))
    assert (job.state, job.attempt, job.losses) == ("succeeded", 2, 1)
    assert service.renderer_of(job_id) == other(service, killed)


def test_who_comes_to_again_after_its_lease_commits_nothing(service: Service) -> None:
    job_id = service.begin(1.0)
    stopped = service.processes[service.renderer_of(job_id)]
    child = child_of(stopped)

    child.suspend()
    job = service.wait_until_done(job_id)
    child.resume()
    stopped.wait_for(f"job {job_id} was taken away")

    assert (job.state, job.attempt) == ("succeeded", 2)
    assert service.job(job_id) == job


def test_a_image_that_was_made_is_recorded_by_another_worker_and_not_made_again(
    service: Service, valkey: Valkey
) -> None:
    job_id = service.begin(1.0)
    worker = service.processes[service.renderer_of(job_id)]
    valkey.suspend()
    wait_until(lambda: list(service.outputs.rglob(f"{job_id}-0.png")))
    (image,) = service.outputs.rglob(f"{job_id}-0.png")
    made = image.stat()

    kill_process_tree(worker)
    valkey.resume()

    assert service.wait_until_done(job_id).attempt == 2
    assert (image.stat().st_ino, image.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


def test_a_job_that_kills_every_worker_is_given_up_and_the_others_pass_it(service: Service) -> None:
    deadly = service.submit(simulate={"die": True})
    others = [service.submit() for _ in range(5)]

    job = service.wait_until_done(deadly)

    assert job.error is not None
    assert (job.error.code, job.attempt) == ("worker-lost", 3)
    assert {service.wait_until_done(job_id).state for job_id in others} == {"succeeded"}


def test_a_worker_that_is_told_to_end_finishes_its_job(service: Service) -> None:
    job_id = service.begin(1.0)
    worker = service.processes[service.renderer_of(job_id)]

    worker.send(signal.SIGTERM)

    assert worker.wait() == 0
    assert (service.job(job_id).state, service.job(job_id).attempt) == ("succeeded", 1)


def test_a_worker_that_may_not_finish_hands_its_job_to_another_at_once(service: Service) -> None:
    name = "null-0"
    service.processes[name].stop()
    service.start(name, SD_SHUTDOWN_GRACE_SECONDS="1")
    service.await_ready(name)
    service.processes["null-1"].send(signal.SIGSTOP)
    job_id = service.begin(2.5)
    service.processes["null-1"].send(signal.SIGCONT)

    told = time.monotonic()
    service.processes[name].send(signal.SIGTERM)
    service.runs_again(job_id)
    took = time.monotonic() - told

    job = service.wait_until_done(job_id)
    assert took < 5
    assert (job.state, job.attempt, job.losses) == ("succeeded", 2, 0)
    assert service.processes[name].wait() == 0
