"""Nobody takes more memory for images than there is, and nobody waits for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.polling import wait_until
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


def test_what_is_left_can_be_had_and_no_more(budget: ImageMemoryBudget) -> None:
    with budget.reserve() as reservation:
        reservation.resize(60)
        assert is_granted(budget, 40)
        assert not is_granted(budget, 41)
        reservation.resize(10)
        assert is_granted(budget, 90)

    assert is_granted(budget, 100)


def test_what_was_not_granted_is_not_missing(budget: ImageMemoryBudget) -> None:
    with budget.reserve() as reservation:
        reservation.resize(60)
        for _ in range(3):
            assert not is_granted(budget, 50)

    assert is_granted(budget, 100)


def test_who_wants_more_than_there_is_gets_it_alone(budget: ImageMemoryBudget) -> None:
    with budget.reserve() as reservation:
        reservation.resize(1)
        assert not is_granted(budget, 1000)

    with budget.reserve() as reservation:
        reservation.resize(1000)
        assert not is_granted(budget, 1)


def test_who_has_the_turn_is_not_passed_by(budget: ImageMemoryBudget) -> None:
    with ThreadPoolExecutor() as threads, budget.reserve() as reservation:
        reservation.resize(60)
        granted = threading.Event()

        def grow() -> None:
            with budget.exclusive_growth(lambda: None), budget.reserve() as own:
                own.resize(30)
                own.resize(90)
                granted.set()

        made = threads.submit(grow)
        # It has the thirty, and waits for the sixty.
        wait_until(lambda: not is_granted(budget, 5))
        assert not granted.is_set()
        reservation.resize(0)

        made.result(10)
        assert granted.is_set()


def test_one_at_a_time_has_the_turn(budget: ImageMemoryBudget) -> None:
    with ThreadPoolExecutor() as threads, budget.exclusive_growth(stop):

        def take() -> None:
            with budget.exclusive_growth(stop):
                pass

        assert isinstance(threads.submit(take).exception(10), Stop)


def test_shares_that_come_and_go_leave_nothing_behind(budget: ImageMemoryBudget) -> None:
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
