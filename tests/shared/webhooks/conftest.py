from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared.webhooks.office import Office
from tests.shared.webhooks.receiver import Receiver, receiving


@pytest.fixture
def office(redis_url: str, tmp_path: Path) -> Iterator[Office]:
    office = Office(redis_url, tmp_path)
    yield office
    office.store.client.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver
