"""A clock that is set by mistake deletes nothing."""

import time
from datetime import UTC, datetime

import pytest

from shared.redis.store import Store
from shared.settings.housekeeper import HousekeeperSettings
from tests.support.polling import wait_until
from tests.worker.housekeeper.conftest import DAY, HousekeeperBench, housekeeping
from worker.housekeeper import app
from worker.housekeeper.clock_guard import ClockGuard


class Machine:
    """A host whose clock can be set."""

    def __init__(self) -> None:
        self.days_ahead = 0
        self.guard = ClockGuard(lambda: time.time() + self.days_ahead * DAY.total_seconds())

    def refuses(self, days_ahead: int = 0) -> bool:
        """Whether a round is left out if the clock of Redis is so many days ahead of the right time."""
        return self.guard.refusal(datetime.now(UTC) + days_ahead * DAY) is not None


def test_retention_waits_while_the_clock_of_redis_is_wrong() -> None:
    machine = Machine()

    assert [machine.refuses(days) for days in (0, 730, 730, -730, 0)] == [False, True, True, True, False]


def test_retention_waits_for_a_step_of_the_clock_that_redis_shares() -> None:
    machine = Machine()
    machine.days_ahead = 730
    assert machine.refuses(730)

    machine.days_ahead = 0
    assert machine.refuses()
    assert not machine.refuses()


def test_a_machine_that_has_slept_leaves_out_one_round() -> None:
    machine = Machine()
    machine.days_ahead = 3

    assert [machine.refuses(3), machine.refuses(3)] == [True, False]


def test_a_round_under_a_wrong_clock_deletes_nothing_and_says_so(
    bench: HousekeeperBench, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.run(bench.submit())
    monkeypatch.setattr(Store, "now", lambda _: datetime.now(UTC) + 730 * DAY)
    monkeypatch.setattr(app, "RETENTION_SECONDS", 0.01)
    settings = HousekeeperSettings(
        redis_url=redis_url, redis_prefix=bench.prefix, output_dir=bench.folder, output_retention_days=30
    )
    with housekeeping(settings):
        wait_until(lambda: "730 days ahead" in caplog.text or not bench.files)

    assert len(bench.files) == 1
