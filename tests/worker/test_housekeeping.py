"""What the housekeeper does, on real records and real files."""

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from shared.jobs.housekeeping import JobHousekeeping
from shared.jobs.job import Job
from shared.jobs.operations import ProgressReply
from shared.storage.folder import FolderStore
from shared.storage.images import ImageStore, image_name
from shared.storage.object_store import STAGING_FOLDER, DayFolder, File
from tests.api.images import encoded, scene
from tests.polling import wait_until
from tests.worker.bench import Bench, arrived
from worker.housekeeper.leases import Reaper
from worker.housekeeper.ownership import MARK, Ownership, StorageOwner
from worker.housekeeper.retention import RemovalCounts, Retention, RetentionRules, first_id_at
from worker.records.recovery import JobRecovery

_numbers = itertools.count()
DAY = timedelta(days=1)
IMAGE = encoded(scene())
KEEP_ALL = RetentionRules(keep_jobs_for=None, keep_images_for=None, max_bytes=None)


class House(Bench):
    """A bench with a housekeeper."""

    @property
    def upkeep(self) -> JobHousekeeping:
        return JobHousekeeping(self.prefix)

    def lapse(self, job: Job) -> None:
        """As if its worker had been silent for longer than a lease."""
        self.store.client.zadd(f"{self.prefix}leases", {job.id: 1})

    def reap(self) -> int:
        return Reaper(self.store, self.jobs, self.upkeep, JobRecovery(self.store, self.jobs)).reap()

    def clear(self, rules: RetentionRules, *, after: timedelta = timedelta(0), dry_run: bool = False) -> RemovalCounts:
        return self.retention(after).apply(rules, dry_run=dry_run)

    def retention(self, after: timedelta = timedelta(0), storage: FolderStore | None = None) -> Retention:
        moment, images = datetime.now(UTC) + after, ImageStore(storage or FolderStore(self.folder))
        return Retention(self.store, self.prefix, images, lambda: self.ownership().claim() is None, lambda: moment)

    def uploaded_long_ago(self, job_id: str) -> None:
        self.store.client.zadd(f"{self.prefix}uploads", {job_id: 1})

    @property
    def files(self) -> list[Path]:
        return [path for path in super().files if path.name != MARK]

    def ownership(self) -> Ownership:
        return Ownership.of(self.store, self.prefix, ImageStore(FolderStore(self.folder)))


@pytest.fixture
def house(redis_url: str, tmp_path: Path) -> House:
    return House(redis_url, f"house{next(_numbers)}:", tmp_path / "outputs")


def test_a_job_whose_lease_lapsed_is_requeued_and_wakes_a_worker(house: House) -> None:
    running = house.start(house.submit())
    house.lapse(running)

    assert house.reap() == 1

    job = house.read(running)
    assert (job.state, job.losses) == ("queued", 1)
    assert house.wake_ups() == 1


def test_a_lease_that_is_renewed_is_left_alone(house: House) -> None:
    running = house.start(house.submit())
    house.lapse(running)
    assert house.store.run(house.jobs.report_progress(running)) is ProgressReply.CONTINUE

    assert house.reap() == 0
    assert house.read(running) == running


def test_a_worker_that_wakes_after_its_job_was_taken_cannot_commit(house: House) -> None:
    stale = house.start(house.submit())
    house.lapse(stale)
    house.reap()
    house.start(house.read(stale))

    committed = house.store.run(house.jobs.move(stale, stale.cancel(datetime.now(UTC))))

    assert not committed
    assert house.store.run(house.jobs.report_progress(stale)) is ProgressReply.LOST


def test_a_job_that_cost_three_workers_is_given_up(house: House) -> None:
    job = house.submit()
    for _ in range(3):
        house.lapse(house.start(house.read(job)))
        house.reap()

    ended = house.read(job)
    assert ended.error is not None
    assert (ended.state, ended.error.code, ended.attempt) == ("failed", "worker-lost", 3)


def test_a_job_that_was_handed_back_has_cost_no_worker(house: House) -> None:
    running = house.start(house.submit())

    JobRecovery(house.store, house.jobs, worker="another worker").requeue(running.id)

    assert (house.read(running).state, house.read(running).losses) == ("queued", 0)


def test_a_worker_moves_no_job_that_another_runs(house: House) -> None:
    running = house.start(house.submit())

    JobRecovery(house.store, house.jobs, worker="not it").requeue_lost(running.id)

    assert house.read(running) == running


def test_a_job_that_nobody_starts_fails_at_its_deadline(house: House) -> None:
    job, other = house.submit(deadline_seconds=1), house.submit(deadline_seconds=1000)
    house.store.client.zadd(f"{house.prefix}deadlines", {job.id: 1})

    assert house.reap() == 1

    failed = house.read(job)
    assert failed.error is not None
    assert failed.error.code == "deadline-passed"
    assert house.read(other) == other


def test_a_deadline_is_met_by_starting(house: House) -> None:
    running = house.start(house.submit(deadline_seconds=1))

    assert house.store.client.zcard(f"{house.prefix}deadlines") == 0
    assert not house.read(running).is_overdue(datetime.now(UTC) + DAY)


def test_a_lost_wake_up_is_replaced(house: House) -> None:
    house.submit()
    house.store.client.delete(f"{house.prefix}generate.null")

    house.reap()
    house.reap()

    assert house.wake_ups() == 1


def test_messages_of_a_version_that_had_one_for_each_job_are_cleared_away(house: House) -> None:
    house.store.client.lpush(f"{house.prefix}generate.null\x06\x163", "a message")

    house.reap()

    assert not house.store.client.exists(f"{house.prefix}generate.null\x06\x163")


def test_old_jobs_are_forgotten_without_a_trace_in_any_index(house: House) -> None:
    baseline = {key.removeprefix(house.prefix) for key in house.store.client.scan_iter(f"{house.prefix}*")}
    for number in range(3):
        house.run(house.submit(label=f"label {number}"))

    removed = house.clear(RetentionRules(DAY, None, None), after=2 * DAY)

    assert removed.jobs == 3
    left = {key.removeprefix(house.prefix) for key in house.store.client.scan_iter(f"{house.prefix}*")} - baseline
    # What is known of all jobs together: how long they take, and how many there were.
    kept = {key for key in left if not key.startswith(("pace:", "shares:"))}
    assert kept <= {"counts", "installation"}


def test_young_unfinished_and_pinned_jobs_are_kept(house: House) -> None:
    pinned = house.run(house.submit())
    queued, running = house.submit(), house.start(house.submit())
    house.store.run(house.jobs.pin(pinned.id, pinned=True))

    assert house.clear(RetentionRules(DAY, DAY, 0), after=2 * DAY) == RemovalCounts(jobs=0, files=0, bytes=0)

    assert [house.read(job).id for job in (queued, pinned, running)] == [queued.id, pinned.id, running.id]
    young = house.run(house.submit())
    assert house.clear(RetentionRules(DAY, DAY, None)).jobs == 0
    assert house.read(young) == young


def test_a_dry_run_removes_nothing_and_counts_the_same(house: House) -> None:
    house.run(house.submit())
    rules = RetentionRules(DAY, DAY, None)

    counted = house.clear(rules, after=2 * DAY, dry_run=True)

    assert len(house.files) == 1
    assert counted == house.clear(rules, after=2 * DAY)
    assert counted.jobs == counted.files == 1
    assert house.files == []


def test_the_oldest_images_go_when_all_take_too_much(house: House) -> None:
    jobs = [house.run(house.submit()) for _ in range(3)]
    for age, job in enumerate(reversed(jobs)):
        moment = (datetime.now(UTC) - age * timedelta(hours=1)).timestamp()
        os.utime(house.folder / image_name(job, 0), (moment, moment))
    room = sum(job.images[0].bytes for job in jobs[1:])

    removed = house.clear(RetentionRules(None, None, room))

    assert removed.files == 1
    assert not (house.folder / image_name(jobs[0], 0)).exists()


def test_what_a_crash_left_behind_goes_when_nobody_can_be_writing_it(house: House) -> None:
    job = house.run(house.submit())
    leftover = house.folder / STAGING_FOLDER / f"{job.id}-0.1.x"
    leftover.write_bytes(b"half")

    house.clear(KEEP_ALL, after=DAY)
    assert leftover.exists()

    assert house.clear(KEEP_ALL, after=2 * DAY) == RemovalCounts(jobs=0, files=1, bytes=4)
    assert not leftover.exists()
    assert len(house.files) == 1


@pytest.mark.parametrize(
    "rules",
    [
        KEEP_ALL,
        RetentionRules(DAY, None, None),
        RetentionRules(None, 365 * DAY, None),
        RetentionRules(None, None, 10**9),
    ],
)
def test_no_image_goes_because_there_is_no_record_of_it(house: House, rules: RetentionRules) -> None:
    known = house.run(house.submit())
    forgotten = house.run(house.submit())
    house.clear(KEEP_ALL)
    house.store.client.delete(house.jobs.read(forgotten.id).keys[0])
    others = house.folder / image_name(known.model_copy(update={"id": str(uuid4())}), 7)
    others.write_bytes(IMAGE)

    for hours in (24, 26, 30, 50, 1000):
        house.clear(rules, after=timedelta(hours=hours))

    assert {path.name for path in house.files} == {f"{known.id}-0.png", f"{forgotten.id}-0.png", others.name}


def test_images_without_a_record_go_by_age_and_by_size_where_that_is_wanted(house: House) -> None:
    house.clear(KEEP_ALL)
    for number in range(4):
        path = house.folder / f"2026/11/2{number}" / f"{uuid4()}-0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(100))
        moment = datetime(2026, 11, 20 + number, 12, tzinfo=UTC).timestamp()
        os.utime(path, (moment, moment))
    now = datetime(2026, 11, 24, tzinfo=UTC) - datetime.now(UTC)

    assert house.clear(RetentionRules(None, 3 * DAY, None), after=now).files == 1
    assert house.clear(RetentionRules(None, None, 200), after=now) == RemovalCounts(jobs=0, files=1, bytes=100)
    assert sorted(path.parent.name for path in house.files) == ["22", "23"]
    assert not (house.folder / "2026/11/20").exists()


def test_the_image_of_a_job_that_has_not_ended_is_kept_whatever_the_rules_say(house: House) -> None:
    job = house.lose_worker_before_recording(house.submit())

    assert house.clear(RetentionRules(None, timedelta(0), 0), after=DAY).files == 0
    assert len(house.files) == 1
    assert house.run(job).state == "succeeded"


def test_with_retention_off_no_image_is_looked_at(house: House) -> None:
    house.run(house.submit())
    house.clear(KEEP_ALL)
    looked = list[str]()

    class Watched(FolderStore):
        def list_files(self, folder: str) -> Iterator[File]:
            looked.append(folder)
            return super().list_files(folder)

        def list_days(self) -> list[DayFolder]:
            looked.append("days")
            return super().list_days()

    house.retention(storage=Watched(house.folder)).apply(KEEP_ALL)

    assert looked == [STAGING_FOLDER]


def test_days_are_looked_at_oldest_first_and_those_that_did_not_change_once(house: House) -> None:
    looked = list[str]()

    class Watched(FolderStore):
        def list_files(self, folder: str) -> Iterator[File]:
            looked.append(folder)
            return super().list_files(folder)

    for day in ("2026/11/20", "2026/11/21", "2026/11/22"):
        (house.folder / day).mkdir(parents=True)
        (house.folder / day / f"{uuid4()}-0.png").write_bytes(bytes(100))
    house.ownership().take_over()
    retention = house.retention(storage=Watched(house.folder))

    def round_of(rules: RetentionRules) -> list[str]:
        looked.clear()
        retention.apply(rules)
        return looked[1:]

    assert round_of(RetentionRules(None, None, 300)) == ["2026/11/20", "2026/11/21", "2026/11/22"]
    assert round_of(RetentionRules(None, None, 300)) == []
    (house.folder / "2026/11/22" / f"{uuid4()}-0.png").write_bytes(bytes(100))
    # The last day is counted anew, and the first one pays for it.
    assert round_of(RetentionRules(None, None, 300)) == ["2026/11/22", "2026/11/20"]
    assert sorted(path.parent.name for path in house.files) == ["21", "22", "22"]
    assert round_of(RetentionRules(None, 36500 * DAY, None)) == []


def test_a_round_ends_when_its_time_is_over_and_the_next_one_goes_on(house: House) -> None:
    house.run(house.submit())

    assert house.retention(2 * DAY).apply(RetentionRules(None, DAY, 0), seconds=0).files == 0
    assert house.retention(2 * DAY).apply(RetentionRules(None, DAY, 0)).files == 1


def test_one_housekeeper_at_a_time_has_the_turn(house: House) -> None:
    assert [house.store.run(house.upkeep.take_turn("clear-away", 60)) for _ in range(2)] == [True, False]
    assert house.store.run(house.upkeep.take_turn("other", 0.001))
    wait_until(lambda: house.store.run(house.upkeep.take_turn("other", 60)))


@pytest.fixture
def other(house: House, redis_url: str) -> House:
    """Another installation in the same folder: another prefix, or a Redis that was lost."""
    return House(redis_url, f"house{next(_numbers)}:", house.folder)


ALL = RetentionRules(timedelta(0), timedelta(0), 0)


def test_an_installation_clears_away_in_the_folder_that_it_has_marked(house: House) -> None:
    assert house.ownership().owner() is StorageOwner.UNCLAIMED
    house.run(house.submit())
    house.clear(KEEP_ALL)

    assert house.ownership().owner() is StorageOwner.OURS
    assert house.clear(ALL, after=DAY).files == 1
    assert house.ownership().owner() is StorageOwner.OURS


def test_images_of_another_installation_are_left_alone_and_jobs_go_on(house: House, other: House) -> None:
    house.run(house.submit())
    house.clear(KEEP_ALL)
    own = other.run(other.submit([IMAGE]))
    leftover = house.folder / STAGING_FOLDER / "x"
    leftover.write_bytes(b"half")

    removed = other.clear(ALL, after=30 * DAY)

    assert (removed.jobs, removed.files) == (1, 0)
    assert other.ownership().owner() is StorageOwner.OTHER
    assert "another installation" in (other.ownership().refusal() or "")
    assert leftover.exists()
    assert own.state == "succeeded"
    assert len(house.files) == 3


def test_images_that_a_fresh_redis_does_not_know_are_left_alone(house: House, other: House) -> None:
    house.run(house.submit())

    assert other.clear(ALL, after=30 * DAY).files == 0
    assert other.ownership().owner() is StorageOwner.UNKNOWN
    assert "--take-over" in (other.ownership().refusal() or "")
    # Nor did it mark them: whoever knows them may.
    assert house.clear(ALL, after=30 * DAY).files == 1


def test_images_are_taken_over_by_whoever_is_told_to(house: House, other: House) -> None:
    house.run(house.submit())
    house.clear(KEEP_ALL)

    other.ownership().take_over()

    assert house.clear(ALL, after=30 * DAY).files == 0
    assert other.clear(ALL, after=30 * DAY).files == 1


def test_a_image_outlives_the_record_of_its_job(house: House) -> None:
    house.run(house.submit())

    house.clear(RetentionRules(DAY * 7, None, None), after=8 * DAY)

    assert len(house.files) == 1


def test_a_image_that_is_being_read_is_read_to_its_end(house: House) -> None:
    job = house.run(house.submit())
    with (house.folder / image_name(job, 0)).open("rb") as reader:
        house.clear(RetentionRules(None, DAY, None), after=2 * DAY)

        assert len(reader.read()) == job.images[0].bytes


def test_the_first_id_of_a_moment_parts_older_ids_from_younger_ones(house: House) -> None:
    before = house.submit()
    moment = datetime.now(UTC) + timedelta(milliseconds=2)

    assert before.id < first_id_at(moment)
    assert first_id_at(moment) < first_id_at(moment + timedelta(milliseconds=1))


def test_images_that_came_with_a_job_stay_until_it_has_ended(house: House) -> None:
    waiting, running, ended = (house.submit([IMAGE]) for _ in range(3))
    house.start(running)
    cancelled = ended.cancel(datetime.now(UTC))
    assert house.store.run(house.jobs.move(ended, cancelled))
    house.uploaded_long_ago(waiting.id)

    removed = house.clear(RetentionRules(None, DAY, 0), after=30 * DAY)

    assert removed == RemovalCounts(jobs=0, files=1, bytes=len(IMAGE))
    assert {folder.job_id for folder in house.inputs.list_folders()} == {waiting.id, running.id}


def test_images_whose_job_was_never_accepted_go_after_a_day(house: House) -> None:
    lost, coming = str(uuid4()), str(uuid4())
    for job_id in (lost, coming):
        house.store.run(house.upkeep.register_upload(job_id))
        staged = house.inputs.create_staging_area()
        arrived(staged, IMAGE)
        staged.commit(job_id)
    house.uploaded_long_ago(lost)

    assert house.clear(KEEP_ALL, dry_run=True).files == 1
    assert house.clear(KEEP_ALL).files == 1
    assert [folder.job_id for folder in house.inputs.list_folders()] == [coming]


def test_images_that_came_with_a_job_of_another_redis_never_go(house: House, other: House) -> None:
    waiting = house.submit([IMAGE])
    for each in (house, other):
        each.ownership().take_over()
        assert each.clear(ALL, after=3000 * DAY).files == 0

    assert [folder.job_id for folder in house.inputs.list_folders()] == [waiting.id]


def test_images_that_never_arrived_whole_go_after_a_day(house: House) -> None:
    arrived(house.inputs.create_staging_area(), IMAGE)

    assert house.clear(KEEP_ALL, after=DAY).files == 0
    assert house.clear(KEEP_ALL, after=2 * DAY).files == 1
    assert list(house.inputs.list_folders()) == []


def test_what_others_put_beside_them_is_left_alone(house: House) -> None:
    house.submit([IMAGE])
    (house.folder / "inputs" / "mine").mkdir()
    (house.folder / "inputs" / "mine" / "a.png").write_bytes(IMAGE)
    (house.folder / "inputs" / "note").write_text("mine")
    (house.folder / "2026/11/23").mkdir(parents=True)
    (house.folder / "2026/11/23/mine.png").write_bytes(IMAGE)

    house.clear(KEEP_ALL, after=30 * DAY)

    assert {path.name for path in (house.folder / "inputs").iterdir()} >= {"mine", "note"}
    assert (house.folder / "2026/11/23/mine.png").exists()


def test_images_that_wait_count_as_room_that_is_taken(house: House) -> None:
    made = house.run(house.submit())
    house.submit([IMAGE])

    removed = house.clear(RetentionRules(None, None, max_bytes=made.images[0].bytes))

    assert removed.files == 1
    assert [folder.bytes for folder in house.inputs.list_folders()] == [len(IMAGE)]
