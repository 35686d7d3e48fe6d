"""The memory budget for images: never exceeded, and nobody waits for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.polling import wait_until
from worker.images.memory_budget import ImageMemoryBudget


class Stop(Exception):
    pass


def stop() -> None:
    raise Stop


@pytest.fixture
def budget() -> ImageMemoryBudget:
    return ImageMemoryBudget(100)


def is_granted(budget: ImageMemoryBudget, count: int) -> bool:
    with budget.reserve() as reservation:
        try:
            reservation.resize(count, stop)
        except Stop:
            return False
    return True


def test_reservations_never_exceed_the_budget(budget: ImageMemoryBudget) -> None:
    with budget.reserve() as reservation:
        reservation.resize(60)
        assert is_granted(budget, 40)
        assert not is_granted(budget, 41)
        reservation.resize(10)
        assert is_granted(budget, 90)

    assert is_granted(budget, 100)


def test_a_refused_reservation_takes_nothing(budget: ImageMemoryBudget) -> None:
    with budget.reserve() as reservation:
        reservation.resize(60)
        for _ in range(3):
            assert not is_granted(budget, 50)

    assert is_granted(budget, 100)


def test_a_reservation_larger_than_the_budget_must_be_the_only_one(budget: ImageMemoryBudget) -> None:
    with budget.reserve() as reservation:
        reservation.resize(1)
        assert not is_granted(budget, 1000)

    with budget.reserve() as reservation:
        reservation.resize(1000)
        assert not is_granted(budget, 1)


def test_a_growing_reservation_is_not_overtaken(budget: ImageMemoryBudget) -> None:
    with ThreadPoolExecutor() as threads, budget.reserve() as reservation:
        reservation.resize(60)
        granted = threading.Event()

        def grow() -> None:
            with budget.exclusive_growth(lambda: None), budget.reserve() as growing:
                growing.resize(30)
                growing.resize(90)
                granted.set()

        growth = threads.submit(grow)
        # It has 30 and waits for 60 more.
        wait_until(lambda: not is_granted(budget, 5))
        assert not granted.is_set()
        reservation.resize(0)

        growth.result(10)
        assert granted.is_set()


def test_one_thread_at_a_time_grows_its_reservation(budget: ImageMemoryBudget) -> None:
    with ThreadPoolExecutor() as threads, budget.exclusive_growth(stop):

        def take() -> None:
            with budget.exclusive_growth(stop):
                pass

        assert isinstance(threads.submit(take).exception(10), Stop)


def test_many_reservations_leave_nothing_behind(budget: ImageMemoryBudget) -> None:
    def work(number: int) -> None:
        if number % 3:
            with budget.reserve() as reservation:
                reservation.resize(number)
        else:
            with budget.exclusive_growth(lambda: None), budget.reserve() as reservation:
                for count in (number, 2 * number, 1):
                    reservation.resize(count)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(1, 90), timeout=30))

    assert is_granted(budget, 100)
