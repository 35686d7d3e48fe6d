"""Concurrency slots, which all workers of a backend share."""

import pytest

from shared.errors import StoreUnavailable
from shared.jobs.types import Backend
from shared.redis.concurrency_slots import ConcurrencySlots
from shared.redis.store import Store, connect
from tests.shared.conftest import Records
from tests.support.failing_store import FailingStore
from tests.support.polling import wait_until
from worker.records import concurrency_slots
from worker.records.concurrency_slots import RedisConcurrencySlots


@pytest.fixture
def slots(records: Records) -> ConcurrencySlots:
    return ConcurrencySlots(records.prefix, Backend.FLUX_API, 2)


def test_the_number_of_slots_is_limited(records: Records, slots: ConcurrencySlots) -> None:
    assert [records.run(slots.acquire(name)) for name in ("a", "b", "c", "a")] == [True, True, False, True]

    records.run(slots.release("a"))

    assert records.run(slots.acquire("c"))


def test_a_slot_expires_unless_it_is_renewed_and_not_before_that_was_possible_again(
    records: Records, slots: ConcurrencySlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if Redis had been away since.
    monkeypatch.setattr("shared.redis.concurrency_slots.SLOT_LEASE_MS", 0)
    for name in ("a", "b"):
        records.run(slots.acquire(name))
    monkeypatch.setattr("shared.redis.concurrency_slots.SLOT_LEASE_MS", 200)

    assert not records.run(slots.acquire("c"))

    monkeypatch.setattr("shared.redis.concurrency_slots.SLOT_LEASE_MS", 600_000)
    records.run(slots.renew(["a"]))
    wait_until(lambda: records.run(slots.acquire("c")))
    assert not records.run(slots.acquire("d"))


def test_slots_from_before_the_clock_was_set_back_expire_and_count_until_then(
    records: Records, slots: ConcurrencySlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.redis.concurrency_slots.SLOT_LEASE_MS", 600_000)
    for name in ("a", "b"):
        records.run(slots.acquire(name))
    monkeypatch.setattr("shared.redis.concurrency_slots.SLOT_LEASE_MS", 100)

    assert not records.run(slots.acquire("c"))
    wait_until(lambda: records.run(slots.acquire("c")))


def test_a_released_slot_is_not_renewed(records: Records, slots: ConcurrencySlots) -> None:
    records.run(slots.acquire("a"))
    records.run(slots.release("a"))

    records.run(slots.renew(["a"]))

    assert [records.run(slots.acquire(name)) for name in ("b", "c")] == [True, True]


def test_waiting_for_a_slot_can_be_stopped(redis_url: str, records: Records, slots: ConcurrencySlots) -> None:
    for name in ("a", "b"):
        records.run(slots.acquire(name))
    waiting = RedisConcurrencySlots(Store(connect(redis_url)), slots)

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError), waiting.held(stop):
        raise AssertionError


def test_the_next_free_slot_goes_to_a_waiting_job(redis_url: str, records: Records, slots: ConcurrencySlots) -> None:
    for name in ("a", "b"):
        records.run(slots.acquire(name))
    waiting = RedisConcurrencySlots(Store(connect(redis_url)), slots)

    def release_another() -> None:
        records.run(slots.release("a"))

    with waiting.held(release_another):
        assert not records.run(slots.acquire("c"))

    assert records.run(slots.acquire("c"))


def test_a_slot_is_waited_for_and_left_to_expire_while_redis_is_away(redis_url: str, slots: ConcurrencySlots) -> None:
    store = FailingStore(redis_url, {name: StoreUnavailable() for name in ("limits/slot_acquire", "commands/run")})

    with RedisConcurrencySlots(store, slots).held(lambda: None):
        assert store.errors.keys() == {"commands/run"}

    assert store.errors == {}


def test_a_slot_is_renewed_while_it_is_held_whatever_goes_wrong_once(
    redis_url: str, records: Records, slots: ConcurrencySlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency_slots, "SLOT_RENEW_SECONDS", 0.01)
    store = FailingStore(redis_url, {"limits/slot_renew": ValueError("an answer that nobody expects")})

    def expiry() -> float:
        (slot,) = records.store.client.zrange(f"{records.prefix}places:flux-api", 0, -1, withscores=True)
        return float(slot[1])

    with RedisConcurrencySlots(store, slots).held(lambda: None):
        acquired = expiry()
        wait_until(lambda: expiry() > acquired)

    assert store.errors == {}
