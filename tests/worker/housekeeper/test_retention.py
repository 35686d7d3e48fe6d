"""Retention of job records and images, on real records and files."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from shared.settings.housekeeper import HousekeeperSettings
from shared.storage.folder import FolderStore
from shared.storage.images import image_name
from shared.storage.object_store import STAGING_FOLDER, DayFolder, File
from tests.stack import valkey_server
from tests.support.polling import wait_until
from tests.worker.housekeeper.conftest import DAY, DELETE_ALL, IMAGE, KEEP_ALL, HousekeeperBench
from worker.housekeeper.app import retention_rules
from worker.housekeeper.retention import RemovalCounts, RetentionRules, first_id_at


def test_old_jobs_are_deleted_from_every_index(bench: HousekeeperBench) -> None:
    baseline = {key.removeprefix(bench.prefix) for key in bench.store.client.scan_iter(f"{bench.prefix}*")}
    for number in range(3):
        bench.run(bench.submit(owner="n8n", label=f"label {number}"))

    removed = bench.apply_retention(RetentionRules(DAY, None, None), after=2 * DAY)

    assert removed.jobs == 3
    left = {key.removeprefix(bench.prefix) for key in bench.store.client.scan_iter(f"{bench.prefix}*")} - baseline
    # What is known of all jobs together: how long they take, and how many there were.
    kept = {key for key in left if not key.startswith(("pace:", "shares:"))}
    assert kept <= {"counts", "installation"}


def test_young_unfinished_and_pinned_jobs_are_kept(bench: HousekeeperBench) -> None:
    pinned = bench.run(bench.submit())
    queued, running = bench.submit(), bench.start(bench.submit())
    bench.store.run(bench.jobs.pin(pinned.id, pinned=True))

    assert bench.apply_retention(RetentionRules(DAY, DAY, 0), after=2 * DAY) == RemovalCounts(jobs=0, files=0, bytes=0)

    assert [bench.read(job).id for job in (queued, pinned, running)] == [queued.id, pinned.id, running.id]
    young = bench.run(bench.submit())
    assert bench.apply_retention(RetentionRules(DAY, DAY, None)).jobs == 0
    assert bench.read(young) == young


@pytest.mark.parametrize("days", [36_500, 10_000_000, 10**12])
def test_jobs_and_images_may_be_kept_for_longer_than_dates_reach(bench: HousekeeperBench, days: int) -> None:
    job = bench.run(bench.submit())
    rules = retention_rules(HousekeeperSettings(job_retention_days=days, output_retention_days=days))

    assert bench.apply_retention(rules) == RemovalCounts(jobs=0, files=0, bytes=0)
    assert bench.read(job) == job


def test_retention_frees_a_full_redis(tmp_path: Path) -> None:
    with valkey_server(tmp_path) as url:
        bench = HousekeeperBench(url, "full:", tmp_path / "outputs")
        bench.run(bench.submit())
        bench.store.client.config_set("maxmemory", 1)

        assert bench.store.run(bench.housekeeping.take_turn("clear-away", 60))
        removed = bench.apply_retention(DELETE_ALL, after=DAY)

    assert (removed.jobs, removed.files) == (1, 1)


def test_a_dry_run_deletes_nothing_and_counts_the_same(bench: HousekeeperBench) -> None:
    bench.run(bench.submit())
    rules = RetentionRules(DAY, DAY, None)

    counted = bench.apply_retention(rules, after=2 * DAY, dry_run=True)

    assert len(bench.files) == 1
    assert counted == bench.apply_retention(rules, after=2 * DAY)
    assert counted.jobs == counted.files == 1
    assert bench.files == []


def test_the_oldest_images_are_deleted_if_all_take_too_much_space(bench: HousekeeperBench) -> None:
    jobs = [bench.run(bench.submit()) for _ in range(3)]
    for age, job in enumerate(reversed(jobs)):
        moment = (datetime.now(UTC) - age * timedelta(hours=1)).timestamp()
        os.utime(bench.folder / image_name(job, 0), (moment, moment))
    room = sum(job.images[0].bytes or 0 for job in jobs[1:])

    removed = bench.apply_retention(RetentionRules(None, None, room))

    assert removed.files == 1
    assert not (bench.folder / image_name(jobs[0], 0)).exists()


def test_thumbnails_are_deleted_with_their_images(bench: HousekeeperBench) -> None:
    job = bench.run(bench.submit(width=400, height=400))
    assert sorted(path.name for path in bench.files) == [f"{job.id}-0-320.jpeg", f"{job.id}-0.png"]

    removed = bench.apply_retention(RetentionRules(None, DAY, None), after=2 * DAY)

    assert removed.files == 2
    assert bench.files == []


def test_leftovers_of_a_crash_are_deleted_once_no_process_can_be_writing_them(bench: HousekeeperBench) -> None:
    job = bench.run(bench.submit())
    leftover = bench.folder / STAGING_FOLDER / f"{job.id}-0.1.x"
    leftover.write_bytes(b"half")

    bench.apply_retention(KEEP_ALL, after=DAY)
    assert leftover.exists()

    assert bench.apply_retention(KEEP_ALL, after=2 * DAY) == RemovalCounts(jobs=0, files=1, bytes=4)
    assert not leftover.exists()
    assert len(bench.files) == 1


@pytest.mark.parametrize(
    "rules",
    [
        KEEP_ALL,
        RetentionRules(DAY, None, None),
        RetentionRules(None, 365 * DAY, None),
        RetentionRules(None, None, 10**9),
    ],
)
def test_no_image_is_deleted_because_it_has_no_record(bench: HousekeeperBench, rules: RetentionRules) -> None:
    known = bench.run(bench.submit())
    forgotten = bench.run(bench.submit())
    bench.apply_retention(KEEP_ALL)
    bench.store.client.delete(bench.jobs.read(forgotten.id).keys[0])
    others = bench.folder / image_name(known.model_copy(update={"id": str(uuid4())}), 7)
    others.write_bytes(IMAGE)

    for hours in (24, 26, 30, 50, 1000):
        bench.apply_retention(rules, after=timedelta(hours=hours))

    assert {path.name for path in bench.files} == {f"{known.id}-0.png", f"{forgotten.id}-0.png", others.name}


def test_images_without_a_record_are_deleted_by_age_and_by_size(bench: HousekeeperBench) -> None:
    bench.apply_retention(KEEP_ALL)
    for number in range(4):
        path = bench.folder / f"2026/11/2{number}" / f"{uuid4()}-0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(100))
        moment = datetime(2026, 11, 20 + number, 12, tzinfo=UTC).timestamp()
        os.utime(path, (moment, moment))
    now = datetime(2026, 11, 24, tzinfo=UTC) - datetime.now(UTC)

    assert bench.apply_retention(RetentionRules(None, 3 * DAY, None), after=now).files == 1
    assert bench.apply_retention(RetentionRules(None, None, 200), after=now) == RemovalCounts(
        jobs=0, files=1, bytes=100
    )
    assert sorted(path.parent.name for path in bench.files) == ["22", "23"]
    assert not (bench.folder / "2026/11/20").exists()


def test_the_image_of_an_unfinished_job_is_kept_whatever_the_rules_say(bench: HousekeeperBench) -> None:
    job = bench.lose_worker_before_recording(bench.submit())

    assert bench.apply_retention(RetentionRules(None, timedelta(0), 0), after=DAY).files == 0
    assert len(bench.files) == 1
    assert bench.run(job).state == "succeeded"


def test_no_image_is_listed_if_retention_is_off(bench: HousekeeperBench) -> None:
    bench.run(bench.submit())
    bench.apply_retention(KEEP_ALL)
    listed = list[str]()

    class RecordingStore(FolderStore):
        def list_files(self, folder: str) -> Iterator[File]:
            listed.append(folder)
            return super().list_files(folder)

        def list_days(self) -> list[DayFolder]:
            listed.append("days")
            return super().list_days()

    bench.retention(storage=RecordingStore(bench.folder)).apply(KEEP_ALL, datetime.now(UTC))

    assert listed == [STAGING_FOLDER]


def test_days_are_listed_oldest_first_and_unchanged_days_only_once(bench: HousekeeperBench) -> None:
    listed = list[str]()

    class RecordingStore(FolderStore):
        def list_files(self, folder: str) -> Iterator[File]:
            listed.append(folder)
            return super().list_files(folder)

    for day in ("2026/11/20", "2026/11/21", "2026/11/22"):
        (bench.folder / day).mkdir(parents=True)
        (bench.folder / day / f"{uuid4()}-0.png").write_bytes(bytes(100))
    bench.ownership().take_over()
    retention = bench.retention(storage=RecordingStore(bench.folder))

    def round_of(rules: RetentionRules) -> list[str]:
        listed.clear()
        retention.apply(rules, datetime.now(UTC))
        return listed[1:]

    assert round_of(RetentionRules(None, None, 300)) == ["2026/11/20", "2026/11/21", "2026/11/22"]
    assert round_of(RetentionRules(None, None, 300)) == []
    (bench.folder / "2026/11/22" / f"{uuid4()}-0.png").write_bytes(bytes(100))
    # The last day is counted anew, and the first one pays for it.
    assert round_of(RetentionRules(None, None, 300)) == ["2026/11/22", "2026/11/20"]
    assert sorted(path.parent.name for path in bench.files) == ["21", "22", "22"]
    assert round_of(RetentionRules(None, 36500 * DAY, None)) == []


def test_a_round_ends_at_its_time_limit_and_the_next_one_continues(bench: HousekeeperBench) -> None:
    bench.run(bench.submit())
    rules, now = RetentionRules(None, DAY, 0), datetime.now(UTC) + 2 * DAY

    assert bench.retention().apply(rules, now, seconds=0).files == 0
    assert bench.retention().apply(rules, now).files == 1


def test_only_one_housekeeper_at_a_time_gets_the_turn(bench: HousekeeperBench) -> None:
    assert [bench.store.run(bench.housekeeping.take_turn("clear-away", 60)) for _ in range(2)] == [True, False]
    assert bench.store.run(bench.housekeeping.take_turn("other", 0.001))
    wait_until(lambda: bench.store.run(bench.housekeeping.take_turn("other", 60)))


def test_an_image_outlives_the_record_of_its_job(bench: HousekeeperBench) -> None:
    bench.run(bench.submit())

    bench.apply_retention(RetentionRules(DAY * 7, None, None), after=8 * DAY)

    assert len(bench.files) == 1


def test_an_image_that_is_being_read_is_read_to_its_end(bench: HousekeeperBench) -> None:
    job = bench.run(bench.submit())
    with (bench.folder / image_name(job, 0)).open("rb") as reader:
        bench.apply_retention(RetentionRules(None, DAY, None), after=2 * DAY)

        assert len(reader.read()) == job.images[0].bytes


def test_the_first_id_of_a_moment_separates_older_ids_from_younger_ones(bench: HousekeeperBench) -> None:
    before = bench.submit()
    moment = datetime.now(UTC) + timedelta(milliseconds=2)

    assert before.id < first_id_at(moment)
    assert first_id_at(moment) < first_id_at(moment + timedelta(milliseconds=1))
