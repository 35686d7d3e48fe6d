"""The rate limit and the clock of Redis."""

import time

import pytest

from shared.errors import RateLimited
from shared.redis.keys import Keys
from shared.redis.rate_limits import RateLimits
from shared.redis.store import Store, connect

PREFIX = "rates:"
#: A request of 170 units: the most that one may cost.
DEAREST = 170


@pytest.fixture
def store(redis_url: str) -> Store:
    return Store(connect(redis_url))


def test_a_clock_that_was_set_back_stops_no_caller(store: Store) -> None:
    limits = RateLimits(PREFIX, per_second=100, burst=5)
    in_an_hour = round((time.time() + 3600) * 1_000_000)
    store.client.set(Keys(PREFIX).rate("early"), in_an_hour)

    assert store.run(limits.take("early", 1, 0)) == 1
    assert store.run(limits.take("early", 1, 0)) == 1


def test_the_dearest_request_is_not_taken_for_a_clock_that_was_set_back(store: Store) -> None:
    limits = RateLimits(PREFIX, per_second=1, burst=5)
    assert store.run(limits.take("dear", 5, 0)) == 5
    assert store.run(limits.take("dear", DEAREST, 0, already_counted=True)) == DEAREST

    with pytest.raises(RateLimited) as refused:
        store.run(limits.take("dear", 1, 0))

    assert DEAREST - 5 < refused.value.seconds <= DEAREST + 1


def test_no_more_is_reserved_than_the_burst_allows_and_accounts_expire(store: Store) -> None:
    limits = RateLimits(PREFIX, per_second=0.01, burst=5)

    assert store.run(limits.take("many", 1, 100)) == 5

    with pytest.raises(RateLimited):
        store.run(limits.take("many", 1, 0))
    assert store.client.pttl(Keys(PREFIX).rate("many")) > 0


def test_a_burst_of_one_lets_one_request_pass(store: Store) -> None:
    assert store.run(RateLimits(PREFIX, per_second=0.01, burst=1).take("single", 1, 0)) == 1
