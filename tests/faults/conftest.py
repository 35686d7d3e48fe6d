from collections.abc import Iterator

import pytest

from tests.faults.invariant import Invariant
from tests.faults.service import Service
from tests.shared.webhooks.receiver import SECRET, Receiver, answer, receiving
from tests.valkey import Valkey


@pytest.fixture(scope="package")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        yield valkey


@pytest.fixture(scope="package")
def listening() -> Iterator[Receiver]:
    """Who webhooks may be sent to."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def receiver(listening: Receiver) -> Receiver:
    """The same, behaving well, and having heard of nothing yet."""
    listening.forget()
    listening.behave = answer(204)
    return listening


@pytest.fixture(scope="package")
def installed(valkey: Valkey, listening: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    names = ("null-0", "null-1", "housekeeper", "api-0")
    settings = {"SD_WEBHOOK_ALLOW": listening.origin, "SD_WEBHOOK_SECRET": SECRET}
    with Service(valkey.url, tmp_path_factory.mktemp("service"), names, **settings) as service:
        yield service


@pytest.fixture
def service(installed: Service) -> Iterator[Service]:
    """Two workers, an API and a housekeeper. Whatever a test does to them, every promise holds in the end."""
    installed.mend()
    yield installed
    installed.mend()
    Invariant(installed).hold(installed.accepted)
