"""Idle connections block nobody, and connections beyond a limit get 503."""

import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from api.edge.connection_limit import MAX_EXCESS, ConnectionLimit
from tests.api.edge.test_connections import code
from tests.api.wire import open_connection, send_raw
from tests.stack import Api, Stack, free_port

FILES = 300
GET = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
#: A request whose body never arrives: busy for SD_BODY_TIMEOUT_SECONDS.
BUSY = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
BUSY += b"Expect: 100-continue\r\n\r\n"


@pytest.fixture(scope="module")
def folder(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, tmp_path_factory.mktemp("crowds"), SD_BACKENDS="null") as stack:
        yield stack


@pytest.fixture(scope="module")
def few_files(folder: Stack) -> Api:
    """An API whose shell limits open files to 200, and to FILES if it asks for more."""
    port = free_port()
    command = ["bash", "-c", f'ulimit -n {FILES}; ulimit -Sn 200; exec "$0" -m api.main', sys.executable]
    process = folder.run(command, SD_PORT=str(port))
    process.wait_for("Uvicorn running on")
    return Api(process, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def narrow(folder: Stack) -> Api:
    """Allows four connections per address."""
    return folder.start_api(SD_MAX_CONNECTIONS_PER_ADDRESS="4")


@contextmanager
def busy(api: Api, number: int) -> Iterator[list[socket.socket]]:
    """Open connections, each with a request whose body is awaited."""
    with ExitStack() as calls:
        opened = [calls.enter_context(open_connection(api)) for _ in range(number)]
        for call in opened:
            call.sendall(BUSY)
            assert b"100 Continue" in call.recv(1000)
        yield opened


def probe(call: socket.socket) -> None:
    """Send a request on a connection that stays open."""
    call.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while not answer.endswith(b"}"):
        answer += call.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 200")


def test_idle_connections_beyond_the_file_limit_block_nobody(few_files: Api) -> None:
    api = few_files
    with ExitStack() as calls:
        idle = [calls.enter_context(open_connection(api)) for _ in range(2 * FILES)]
        for call in idle[-40:]:
            call.sendall(b"GET /health/live HTTP/1.1\r\n")

        assert send_raw(api, GET.format("/health/live")).startswith(b"HTTP/1.1 200")
        assert send_raw(api, GET.format("/api/jobs")).startswith(b"HTTP/1.1 200")
        assert psutil.Process(api.process.pid).num_fds() < FILES // 2
    assert "Too many open files" not in api.process.output


def test_the_limit_of_open_files_is_raised_to_the_hard_limit(few_files: Api) -> None:
    assert resource.prlimit(few_files.process.pid, resource.RLIMIT_NOFILE) == (FILES, FILES)


def test_a_connection_beyond_the_limit_gets_503_and_probes_are_answered(narrow: Api) -> None:
    with busy(narrow, 4) as calls:
        refused = send_raw(narrow, GET.format("/api/jobs"))
        live = send_raw(narrow, GET.format("/health/live"))
        calls[0].close()
        while (answer := send_raw(narrow, GET.format("/api/jobs"))).startswith(b"HTTP/1.1 503"):
            pass

    assert code(refused) == (503, "too-many-connections")
    assert b"retry-after: 5" in refused.lower()
    assert b"connection: close" in refused.lower()
    assert live.startswith(b"HTTP/1.1 200")
    assert answer.startswith(b"HTTP/1.1 200")


def test_the_longest_idle_connection_is_closed_for_a_new_one(narrow: Api) -> None:
    with ExitStack() as calls:
        first, *others = (calls.enter_context(open_connection(narrow)) for _ in range(4))
        for call in (first, *others, first):
            probe(call)

        assert send_raw(narrow, GET.format("/api/jobs")).startswith(b"HTTP/1.1 200")

        assert others[0].recv(1) == b"", "closed"
        probe(first)


def test_many_excess_connections_delay_no_probe(narrow: Api) -> None:
    with busy(narrow, 4), ExitStack() as excess:
        for _ in range(100):
            excess.enter_context(open_connection(narrow))
        assert send_raw(narrow, GET.format("/health/live")).startswith(b"HTTP/1.1 200")


def test_a_trusted_proxy_is_exempt_from_the_limit_per_address(folder: Stack) -> None:
    api = folder.start_api(SD_MAX_CONNECTIONS_PER_ADDRESS="4", SD_TRUSTED_PROXIES="127.0.0.1")

    with busy(api, 8):
        assert send_raw(api, GET.format("/api/jobs")).startswith(b"HTTP/1.1 200")


class Connection:
    """One that only records that it was closed."""

    is_closed = False

    def disconnect(self) -> None:
        self.is_closed = True


def opened(limit: ConnectionLimit, count: int, address: str = "192.0.2.1") -> list[Connection]:
    """Busy connections."""
    connections = [Connection() for _ in range(count)]
    for connection in connections:
        limit.add(connection, address)
        limit.mark_busy(connection)
    return connections


def test_no_address_can_take_more_than_half_of_the_connections() -> None:
    limit = ConnectionLimit(10, 100, (), max_files=10_000)

    crowd = opened(limit, 6)
    (other,) = opened(limit, 1, "192.0.2.2")

    assert [limit.is_excess(one) for one in (*crowd, other)] == [False] * 5 + [True, False]


def test_of_the_connections_beyond_the_limit_only_the_newest_are_kept_and_none_that_has_ended() -> None:
    limit = ConnectionLimit(2, 1, (), max_files=10_000)
    opened(limit, 1)
    ended, first, *others = opened(limit, MAX_EXCESS)

    limit.remove(ended)
    assert not limit.is_excess(ended)

    opened(limit, 1)
    assert not first.is_closed
    opened(limit, 1)
    assert (first.is_closed, limit.is_excess(first)) == (True, False)
    assert not any(one.is_closed for one in others)
