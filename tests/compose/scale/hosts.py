"""Two hosts: network namespaces, or two ports of this host if namespaces cannot be created."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from tests.stack import free_port


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    """At which others reach the host."""
    gateway: str
    """At which the host reaches this machine."""
    port: int
    """Of its API."""
    enter: tuple[str, ...] = ()
    """Prefix of commands that run on the host."""

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    with ExitStack() as stack:
        try:
            first, second = (stack.enter_context(_namespace(number)) for number in (1, 2))
        except (OSError, subprocess.CalledProcessError):
            stack.close()
            first, second = (Host(name, "127.0.0.1", "127.0.0.1", free_port()) for name in "ab")
        yield first, second


@contextmanager
def _namespace(number: int) -> Iterator[Host]:
    name, link = f"imagegen-{os.getpid()}-{number}", f"ig{os.getpid()}-{number}"
    address, gateway = f"10.231.{number}.2", f"10.231.{number}.1"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("addr", "add", f"{gateway}/24", "dev", link)
        _ip("link", "set", link, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield Host("ab"[number - 1], address, gateway, 7860, ("ip", "netns", "exec", name))
    finally:
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)  # noqa: S607
