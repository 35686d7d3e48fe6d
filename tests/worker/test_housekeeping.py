"""What the housekeeper does, on real records and real files."""

import itertools
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from shared.images import ImageStore, picture_name
from shared.jobs import Verdict
from shared.schemas import Job
from shared.storage.folder import Folder
from shared.upkeep import Upkeep
from tests.api.pictures import encoded, scene
from tests.worker.bench import Bench, arrived
from worker.housekeeper.leases import Reaper
from worker.housekeeper.retention import Removed, Retention, Rules, first_id_at
from worker.rescue import Rescue

_numbers = itertools.count()
DAY = timedelta(days=1)
PICTURE = encoded(scene())
KEEP_ALL = Rules(jobs_for=None, pictures_for=None, most_bytes=None)


class House(Bench):
    """A bench with a housekeeper."""

    @property
    def upkeep(self) -> Upkeep:
        return Upkeep(self.prefix)

    def lapse(self, job: Job) -> None:
        """As if its worker had been silent for longer than a lease."""
        self.store.client.zadd(f"{self.prefix}leases", {job.id: 1})

    def reap(self) -> int:
        return Reaper(self.store, self.jobs, self.upkeep, Rescue(self.store, self.jobs)).reap()

    def clear(self, rules: Rules, *, after: timedelta = timedelta(0), dry_run: bool = False) -> Removed:
        images = ImageStore(Folder(self.folder))
        retention = Retention(self.store, self.jobs, self.upkeep, images, lambda: datetime.now(UTC) + after)
        return retention.apply(rules, dry_run=dry_run)


@pytest.fixture
def house(redis_url: str, tmp_path: Path) -> House:
    return House(redis_url, f"house{next(_numbers)}:", tmp_path / "outputs")


def test_a_job_whose_lease_lapsed_is_requeued_and_wakes_a_worker(house: House) -> None:
    running = house.started(house.accepted())
    house.lapse(running)

    assert house.reap() == 1

    job = house.read(running)
    assert (job.state, job.losses) == ("queued", 1)
    assert house.wake_ups() == 1


def test_a_lease_that_is_renewed_is_left_alone(house: House) -> None:
    running = house.started(house.accepted())
    house.lapse(running)
    assert house.store.run(house.jobs.report(running)) is Verdict.GO_ON

    assert house.reap() == 0
    assert house.read(running) == running


def test_a_worker_that_wakes_after_its_job_was_taken_cannot_commit(house: House) -> None:
    stale = house.started(house.accepted())
    house.lapse(stale)
    house.reap()
    house.started(house.read(stale))

    committed = house.store.run(house.jobs.move(stale, stale.cancel(datetime.now(UTC))))

    assert not committed
    assert house.store.run(house.jobs.report(stale)) is Verdict.LOST


def test_a_job_that_cost_three_workers_is_given_up(house: House) -> None:
    job = house.accepted()
    for _ in range(3):
        house.lapse(house.started(house.read(job)))
        house.reap()

    ended = house.read(job)
    assert ended.error is not None
    assert (ended.state, ended.error.code, ended.attempt) == ("failed", "worker-lost", 3)


def test_a_job_that_was_handed_back_has_cost_no_worker(house: House) -> None:
    running = house.started(house.accepted())

    Rescue(house.store, house.jobs, worker="another worker").handed_back(running.id)

    assert (house.read(running).state, house.read(running).losses) == ("queued", 0)


def test_a_worker_moves_no_job_that_another_runs(house: House) -> None:
    running = house.started(house.accepted())

    Rescue(house.store, house.jobs, worker="not it").worker_lost(running.id)

    assert house.read(running) == running


def test_a_job_that_nobody_starts_fails_at_its_deadline(house: House) -> None:
    job, other = house.accepted(deadline_seconds=1), house.accepted(deadline_seconds=1000)
    house.store.client.zadd(f"{house.prefix}deadlines", {job.id: 1})

    assert house.reap() == 1

    failed = house.read(job)
    assert failed.error is not None
    assert failed.error.code == "deadline-passed"
    assert house.read(other) == other


def test_a_deadline_is_met_by_starting(house: House) -> None:
    running = house.started(house.accepted(deadline_seconds=1))

    assert house.store.client.zcard(f"{house.prefix}deadlines") == 0
    assert not house.read(running).is_overdue(datetime.now(UTC) + DAY)


def test_a_lost_wake_up_is_replaced(house: House) -> None:
    house.accepted()
    house.store.client.delete(f"{house.prefix}generate.null")

    house.reap()
    house.reap()

    assert house.wake_ups() == 1


def test_old_jobs_are_forgotten_without_a_trace_in_any_index(house: House) -> None:
    baseline = {key.removeprefix(house.prefix) for key in house.store.client.scan_iter(f"{house.prefix}*")}
    for number in range(3):
        house.run(house.accepted(label=f"label {number}"))

    removed = house.clear(Rules(DAY, None, None), after=2 * DAY)

    assert removed.jobs == 3
    left = {key.removeprefix(house.prefix) for key in house.store.client.scan_iter(f"{house.prefix}*")} - baseline
    # What is known of all jobs together: how long they take, and how many there were.
    assert {key for key in left if not key.startswith(("pace:", "shares:"))} == {"counts"}


def test_young_unfinished_and_pinned_jobs_are_kept(house: House) -> None:
    pinned = house.run(house.accepted())
    queued, running = house.accepted(), house.started(house.accepted())
    house.store.run(house.jobs.pin(pinned.id, pinned=True))

    assert house.clear(Rules(DAY, DAY, 0), after=2 * DAY) == Removed(jobs=0, files=0, bytes=0)

    assert [house.read(job).id for job in (queued, pinned, running)] == [queued.id, pinned.id, running.id]
    young = house.run(house.accepted())
    assert house.clear(Rules(DAY, DAY, None)).jobs == 0
    assert house.read(young) == young


def test_a_dry_run_removes_nothing_and_counts_the_same(house: House) -> None:
    house.run(house.accepted())
    rules = Rules(DAY, DAY, None)

    counted = house.clear(rules, after=2 * DAY, dry_run=True)

    assert len(house.files) == 1
    assert counted == house.clear(rules, after=2 * DAY)
    assert counted.jobs == counted.files == 1
    assert house.files == []


def test_the_oldest_pictures_go_when_all_take_too_much(house: House) -> None:
    jobs = [house.run(house.accepted()) for _ in range(3)]
    for age, job in enumerate(reversed(jobs)):
        moment = (datetime.now(UTC) - age * timedelta(hours=1)).timestamp()
        os.utime(house.folder / picture_name(job, 0), (moment, moment))
    room = sum(job.images[0].bytes for job in jobs[1:])

    removed = house.clear(Rules(None, None, room))

    assert removed.files == 1
    assert not (house.folder / picture_name(jobs[0], 0)).exists()


def test_what_a_crash_left_behind_goes_after_a_day(house: House) -> None:
    job = house.run(house.accepted())
    leftover = (house.folder / picture_name(job, 0)).with_name(".x.png.1.tmp")
    leftover.write_text("half")

    house.clear(KEEP_ALL)
    assert leftover.exists()

    house.clear(KEEP_ALL, after=2 * DAY)
    assert not leftover.exists()
    assert len(house.files) == 1


def test_a_picture_that_no_job_owns_to_goes_after_a_day(house: House) -> None:
    job = house.run(house.accepted())
    orphans = [house.folder / picture_name(owner, 7) for owner in (job, job.model_copy(update={"id": str(uuid4())}))]
    for file in orphans:
        file.write_bytes(b"half")

    house.clear(KEEP_ALL, after=DAY + timedelta(hours=2))

    assert [file.name for file in house.files] == [f"{job.id}-0.png"]


def test_a_picture_outlives_the_record_of_its_job(house: House) -> None:
    house.run(house.accepted())

    house.clear(Rules(DAY * 7, None, None), after=8 * DAY)

    assert len(house.files) == 1


def test_a_picture_that_is_being_read_is_read_to_its_end(house: House) -> None:
    job = house.run(house.accepted())
    with (house.folder / picture_name(job, 0)).open("rb") as reader:
        house.clear(Rules(None, DAY, None), after=2 * DAY)

        assert len(reader.read()) == job.images[0].bytes


def test_the_first_id_of_a_moment_parts_older_ids_from_younger_ones(house: House) -> None:
    before = house.accepted()
    moment = datetime.now(UTC) + timedelta(milliseconds=2)

    assert before.id < first_id_at(moment)
    assert first_id_at(moment) < first_id_at(moment + timedelta(milliseconds=1))


def test_pictures_that_came_with_a_job_stay_until_it_has_ended(house: House) -> None:
    waiting, running, ended = (house.accepted([PICTURE]) for _ in range(3))
    house.started(running)
    cancelled = ended.cancel(datetime.now(UTC))
    assert house.store.run(house.jobs.move(ended, cancelled))

    removed = house.clear(Rules(None, DAY, None), after=30 * DAY)

    assert removed == Removed(jobs=0, files=1, bytes=len(PICTURE))
    assert {folder.job_id for folder in house.inputs.folders()} == {waiting.id, running.id}


def test_pictures_that_came_with_no_job_go_after_an_hour(house: House) -> None:
    staged, lost = house.inputs.stage(), house.inputs.stage()
    for arriving in (staged, lost):
        arrived(arriving, PICTURE)
    lost.keep(str(uuid4()))

    assert house.clear(KEEP_ALL).files == 0
    assert house.clear(KEEP_ALL, after=timedelta(hours=2), dry_run=True).files == 2
    assert house.clear(KEEP_ALL, after=timedelta(hours=2)).files == 2
    assert list(house.inputs.folders()) == []


def test_what_others_put_beside_them_is_left_alone(house: House) -> None:
    house.accepted([PICTURE])
    (house.folder / "inputs" / "mine").mkdir()
    (house.folder / "inputs" / "mine" / "a.png").write_bytes(PICTURE)
    (house.folder / "inputs" / "note").write_text("mine")
    (house.folder / "2026/11/23").mkdir(parents=True)
    (house.folder / "2026/11/23/mine.png").write_bytes(PICTURE)

    house.clear(KEEP_ALL, after=30 * DAY)

    assert {path.name for path in (house.folder / "inputs").iterdir()} >= {"mine", "note"}
    assert (house.folder / "2026/11/23/mine.png").exists()


def test_pictures_that_wait_count_as_room_that_is_taken(house: House) -> None:
    made = house.run(house.accepted())
    house.accepted([PICTURE])

    removed = house.clear(Rules(None, None, most_bytes=made.images[0].bytes))

    assert removed.files == 1
    assert [folder.bytes for folder in house.inputs.folders()] == [len(PICTURE)]
