"""Names that lead where a test says, and real servers on this machine, some of them with certificates."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
import trustme

from shared.networks import Address
from shared.pinned import tls_context
from tests.outbound.servers import OK, Script, Server, say, serve


class Names:
    """A resolver. Each lookup of a name takes the next of its answers; the last stays."""

    def __init__(self) -> None:
        self._answers: dict[str, list[list[Address]]] = {}
        self.asked: list[str] = []

    def lead(self, host: str, *answers: str) -> None:
        """Each answer is one or more addresses with blanks between."""
        self._answers[host] = [[ip_address(address) for address in answer.split()] for answer in answers]

    def __call__(self, host: str) -> list[Address]:
        self.asked.append(host)
        answers = self._answers.get(host)
        if not answers:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(Script(say(OK))) as server:
        yield server


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """This machine trusts the authority."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    tls_context.cache_clear()
    yield
    tls_context.cache_clear()
