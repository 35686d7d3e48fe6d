"""Names that lead where a test says, real servers on this machine, some with certificates, and who asks them."""

import contextlib
import ssl
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest
import trustme

from shared.net.address_policy import IpAddress
from shared.net.outbound import HttpResponse, OutboundClient
from shared.net.pinned_http import tls_context
from tests.shared.outbound.servers import OK, Act, Script, Server, say, serve

fine = say(OK)


class Names:
    """A resolver. Each lookup of a name takes the next of its answers; the last stays."""

    def __init__(self) -> None:
        self._answers: dict[str, list[list[IpAddress]]] = {}
        self.asked: list[str] = []

    def lead(self, host: str, *answers: str) -> None:
        """Each answer is one or more addresses with blanks between."""
        self._answers[host] = [[ip_address(address) for address in answer.split()] for answer in answers]

    def __call__(self, host: str) -> list[IpAddress]:
        self.asked.append(host)
        answers = self._answers.get(host)
        if not answers:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


class Caller:
    """Asks for `http://hooks.example.com`, which leads to this machine and for which somebody vouched."""

    def __init__(self, names: Names, server: Server, scheme: str = "http") -> None:
        self.origin = f"{scheme}://hooks.example.com:{server.port}"
        self.client = OutboundClient([self.origin], resolve=names)
        names.lead("hooks.example.com", "127.0.0.1")

    def get(self, target: str = "/", **told: Any) -> HttpResponse:
        return self.send("GET", target, **told)

    def send(self, method: str, target: str = "/", **told: Any) -> HttpResponse:
        told = {"timeout_seconds": 5, "max_bytes": 1000, **told}
        return self.client.send(method, self.origin + target, **told)


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(Script(say(OK))) as server:
        yield server


@pytest.fixture
def caller(names: Names, server: Server) -> Caller:
    return Caller(names, server)


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


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def start(*names: str, act: Act = fine) -> Server:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(*names).configure_cert(context)
            return stack.enter_context(serve(Script(act, tls=context)))

        yield start
