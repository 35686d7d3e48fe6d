from collections.abc import Iterator

import pytest

from tests.faults.invariant import Invariant
from tests.faults.service import Service
from tests.shared.webhooks.receiver import SECRET, Receiver, answer, receiving
from tests.support.valkey import Valkey


@pytest.fixture(scope="package")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        yield valkey


@pytest.fixture(scope="package")
def shared_receiver() -> Iterator[Receiver]:
    """An allowed receiver of webhooks."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def receiver(shared_receiver: Receiver) -> Receiver:
    """The receiver, empty and answering 204."""
    shared_receiver.forget()
    shared_receiver.behave = answer(204)
    return shared_receiver


@pytest.fixture(scope="package")
def shared_service(
    valkey: Valkey, shared_receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    names = ("null-0", "null-1", "housekeeper", "api-0")
    settings = {"SD_WEBHOOK_ALLOW": shared_receiver.origin, "SD_WEBHOOK_SECRET": SECRET}
    with Service(valkey.url, tmp_path_factory.mktemp("service"), names, **settings) as service:
        yield service


@pytest.fixture
def service(shared_service: Service) -> Iterator[Service]:
    """Two workers, an API and a housekeeper. After each test, every promise must hold."""
    shared_service.start_missing()
    yield shared_service
    shared_service.start_missing()
    Invariant(shared_service).wait_and_check(shared_service.accepted)
