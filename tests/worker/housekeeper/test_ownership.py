"""An installation deletes only images that it owns."""

from shared.storage.object_store import STAGING_FOLDER
from tests.worker.housekeeper.conftest import DAY, DELETE_ALL, IMAGE, KEEP_ALL, HousekeeperBench
from worker.housekeeper.ownership import StorageOwner


def test_an_installation_deletes_in_the_folder_that_it_has_marked(bench: HousekeeperBench) -> None:
    assert bench.ownership().owner() is StorageOwner.UNCLAIMED
    bench.run(bench.submit())
    bench.apply_retention(KEEP_ALL)

    assert bench.ownership().owner() is StorageOwner.OURS
    assert bench.apply_retention(DELETE_ALL, after=DAY).files == 1
    assert bench.ownership().owner() is StorageOwner.OURS


def test_images_of_another_installation_are_left_alone_and_jobs_go_on(
    bench: HousekeeperBench, other: HousekeeperBench
) -> None:
    bench.run(bench.submit())
    bench.apply_retention(KEEP_ALL)
    others_job = other.run(other.submit([IMAGE]))
    leftover = bench.folder / STAGING_FOLDER / "x"
    leftover.write_bytes(b"half")

    removed = other.apply_retention(DELETE_ALL, after=30 * DAY)

    assert (removed.jobs, removed.files) == (1, 0)
    assert other.ownership().owner() is StorageOwner.OTHER
    assert "another installation" in (other.ownership().refusal() or "")
    assert leftover.exists()
    assert others_job.state == "succeeded"
    assert len(bench.files) == 3


def test_images_without_a_record_in_a_fresh_redis_are_left_alone(
    bench: HousekeeperBench, other: HousekeeperBench
) -> None:
    bench.run(bench.submit())

    assert other.apply_retention(DELETE_ALL, after=30 * DAY).files == 0
    assert other.ownership().owner() is StorageOwner.UNKNOWN
    assert "--take-over" in (other.ownership().refusal() or "")
    # Nor did it mark them: whoever knows them may.
    assert bench.apply_retention(DELETE_ALL, after=30 * DAY).files == 1


def test_an_installation_can_take_over_the_images_of_another(bench: HousekeeperBench, other: HousekeeperBench) -> None:
    bench.run(bench.submit())
    bench.apply_retention(KEEP_ALL)

    other.ownership().take_over()

    assert bench.apply_retention(DELETE_ALL, after=30 * DAY).files == 0
    assert other.apply_retention(DELETE_ALL, after=30 * DAY).files == 1
