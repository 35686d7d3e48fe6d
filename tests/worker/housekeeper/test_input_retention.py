"""Retention of the input images of jobs."""

from datetime import UTC, datetime
from uuid import uuid4

from tests.worker.bench import arrived
from tests.worker.housekeeper.conftest import DAY, DELETE_ALL, IMAGE, KEEP_ALL, HousekeeperBench
from worker.housekeeper.retention import RemovalCounts, RetentionRules


def test_inputs_are_kept_until_their_job_has_ended(bench: HousekeeperBench) -> None:
    waiting, running, ended = (bench.submit([IMAGE]) for _ in range(3))
    bench.start(running)
    cancelled = ended.cancel(datetime.now(UTC))
    assert bench.store.run(bench.jobs.move(ended, cancelled))
    bench.age_upload(waiting.id)

    removed = bench.apply_retention(RetentionRules(None, DAY, 0), after=30 * DAY)

    assert removed == RemovalCounts(jobs=0, files=1, bytes=len(IMAGE))
    assert {folder.job_id for folder in bench.inputs.list_folders()} == {waiting.id, running.id}


def test_inputs_whose_job_was_never_accepted_are_deleted_after_a_day(bench: HousekeeperBench) -> None:
    lost, coming = str(uuid4()), str(uuid4())
    for job_id in (lost, coming):
        bench.store.run(bench.housekeeping.register_upload(job_id))
        staged = bench.inputs.create_staging_area()
        arrived(staged, IMAGE)
        staged.commit(job_id)
    bench.age_upload(lost)

    assert bench.apply_retention(KEEP_ALL, dry_run=True).files == 1
    assert bench.apply_retention(KEEP_ALL).files == 1
    assert [folder.job_id for folder in bench.inputs.list_folders()] == [coming]


def test_uploads_that_became_no_job_are_forgotten(bench: HousekeeperBench) -> None:
    bench.store.run(bench.housekeeping.register_upload("lost"))
    bench.age_upload("lost")

    bench.store.run(bench.housekeeping.register_upload("coming"))

    assert bench.store.client.zrange(f"{bench.prefix}uploads", 0, -1) == ["coming"]


def test_inputs_of_a_job_in_another_redis_are_never_deleted(bench: HousekeeperBench, other: HousekeeperBench) -> None:
    waiting = bench.submit([IMAGE])
    for installation in (bench, other):
        installation.ownership().take_over()
        assert installation.apply_retention(DELETE_ALL, after=3000 * DAY).files == 0

    assert [folder.job_id for folder in bench.inputs.list_folders()] == [waiting.id]


def test_incomplete_uploads_are_deleted_after_a_day(bench: HousekeeperBench) -> None:
    arrived(bench.inputs.create_staging_area(), IMAGE)

    assert bench.apply_retention(KEEP_ALL, after=DAY).files == 0
    assert bench.apply_retention(KEEP_ALL, after=2 * DAY).files == 1
    assert list(bench.inputs.list_folders()) == []


def test_files_that_are_not_ours_are_left_alone(bench: HousekeeperBench) -> None:
    bench.submit([IMAGE])
    (bench.folder / "inputs" / "mine").mkdir()
    (bench.folder / "inputs" / "mine" / "a.png").write_bytes(IMAGE)
    (bench.folder / "inputs" / "note").write_text("mine")
    (bench.folder / "2026/11/23").mkdir(parents=True)
    (bench.folder / "2026/11/23/mine.png").write_bytes(IMAGE)

    bench.apply_retention(KEEP_ALL, after=30 * DAY)

    assert {path.name for path in (bench.folder / "inputs").iterdir()} >= {"mine", "note"}
    assert (bench.folder / "2026/11/23/mine.png").exists()


def test_inputs_of_waiting_jobs_count_as_used_space(bench: HousekeeperBench) -> None:
    made = bench.run(bench.submit())
    bench.submit([IMAGE])

    removed = bench.apply_retention(RetentionRules(None, None, max_bytes=made.images[0].bytes))

    assert removed.files == 1
    assert [folder.bytes for folder in bench.inputs.list_folders()] == [len(IMAGE)]
