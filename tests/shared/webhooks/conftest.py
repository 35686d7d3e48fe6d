from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared.webhooks.harness import OutboxHarness
from tests.shared.webhooks.receiver import Receiver, receiving


@pytest.fixture
def outbox(redis_url: str, tmp_path: Path) -> Iterator[OutboxHarness]:
    outbox = OutboxHarness(redis_url, tmp_path)
    yield outbox
    outbox.store.client.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver
