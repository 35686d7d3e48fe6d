"""Connections that ask for nothing take nobody's place; those beyond a limit are told so."""

import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from tests.api.edge.test_connections import code
from tests.api.wire import open_connection, send_raw
from tests.stack import Api, Stack, free_port

FILES = 300
GET = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
#: A request that its body never follows: busy for as long as SD_BODY_TIMEOUT_SECONDS.
BUSY = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
BUSY += b"Expect: 100-continue\r\n\r\n"


def start(stack: Stack, limits: str, **settings: str) -> Api:
    """An API whose shell has set limits of open files."""
    port = free_port()
    command = ["bash", "-c", f'{limits}; exec "$0" -m api.main', sys.executable]
    process = stack.run(command, SD_PORT=str(port), **settings)
    process.wait_for("Uvicorn running on")
    return Api(process, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def folder(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, tmp_path_factory.mktemp("crowds"), SD_BACKENDS="null") as stack:
        yield stack


@pytest.fixture(scope="module")
def narrow(folder: Stack) -> Api:
    """Four connections an address."""
    return folder.start_api(SD_MAX_CONNECTIONS_PER_ADDRESS="4")


@contextmanager
def busy(api: Api, number: int) -> Iterator[list[socket.socket]]:
    """So many connections, with a request each whose body is awaited."""
    with ExitStack() as calls:
        opened = [calls.enter_context(open_connection(api)) for _ in range(number)]
        for call in opened:
            call.sendall(BUSY)
            assert b"100 Continue" in call.recv(1000)
        yield opened


def probe(call: socket.socket) -> None:
    """Ask on a connection that stays open."""
    call.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while not answer.endswith(b"}"):
        answer += call.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 200")


def test_more_idle_connections_than_the_process_may_have_files_take_nobodys_place(folder: Stack) -> None:
    api = start(folder, f"ulimit -n {FILES}")
    with ExitStack() as calls:
        idle = [calls.enter_context(open_connection(api)) for _ in range(2 * FILES)]
        for call in idle[-40:]:
            call.sendall(b"GET /health/live HTTP/1.1\r\n")

        assert send_raw(api, GET.format("/health/live")).startswith(b"HTTP/1.1 200")
        assert send_raw(api, GET.format("/api/jobs")).startswith(b"HTTP/1.1 200")
        assert psutil.Process(api.process.pid).num_fds() < FILES // 2
    assert "Too many open files" not in api.process.output


def test_the_limit_of_open_files_is_raised_to_what_the_system_allows(folder: Stack) -> None:
    api = start(folder, "ulimit -n 900; ulimit -Sn 200")

    assert resource.prlimit(api.process.pid, resource.RLIMIT_NOFILE) == (900, 900)


def test_one_address_too_many_is_told_to_come_back_and_probes_are_answered(narrow: Api) -> None:
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


def test_who_has_been_idle_for_longest_makes_room(narrow: Api) -> None:
    with ExitStack() as calls:
        first, *others = (calls.enter_context(open_connection(narrow)) for _ in range(4))
        for call in (first, *others, first):
            probe(call)

        assert send_raw(narrow, GET.format("/api/jobs")).startswith(b"HTTP/1.1 200")

        assert others[0].recv(1) == b"", "closed"
        probe(first)


def test_late_connections_without_end_keep_no_probe_waiting(narrow: Api) -> None:
    with busy(narrow, 4), ExitStack() as late:
        for _ in range(100):
            late.enter_context(open_connection(narrow))
        assert send_raw(narrow, GET.format("/health/live")).startswith(b"HTTP/1.1 200")


def test_a_trusted_proxy_is_not_taken_for_one_client(folder: Stack) -> None:
    api = folder.start_api(SD_MAX_CONNECTIONS_PER_ADDRESS="4", SD_TRUSTED_PROXIES="127.0.0.1")

    with busy(api, 8):
        assert send_raw(api, GET.format("/api/jobs")).startswith(b"HTTP/1.1 200")
