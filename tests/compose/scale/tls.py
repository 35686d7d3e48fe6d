"""A Redis server with TLS: Debian's, or the bundled one behind a process that terminates TLS."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from tests.stack import free_port, valkey_server
from tests.support.process import Process

#: Terminates TLS; arguments: port, folder of certificates, socket of the server.
TERMINATOR = """
import select, socket, ssl, sys, threading
port, folder, inside = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=f"{folder}/ca.pem")
context.load_cert_chain(f"{folder}/server.pem")
context.verify_mode = ssl.CERT_REQUIRED

def serve(caller):
    with context.wrap_socket(caller, server_side=True, do_handshake_on_connect=False) as outer:
        try:
            outer.do_handshake()
        except ssl.SSLError:
            # Reads what was sent meanwhile: closing with unread data would discard the alert. asyncio sends no alert.
            outer.shutdown(socket.SHUT_WR)
            while outer.recv(65536):
                pass
            return
        with socket.socket(socket.AF_UNIX) as inner:
            inner.connect(inside)
            copy(outer, inner)

def copy(outer, inner):
    while True:
        for source in [outer] if outer.pending() else select.select([outer, inner], [], [])[0]:
            data = source.recv(65536)
            if not data:
                return
            (inner if source is outer else outer).sendall(data)

def served(caller):
    try:
        serve(caller)
    except OSError:
        pass

server = socket.create_server(("127.0.0.1", int(port)))
print("Ready to accept connections", flush=True)
while True:
    threading.Thread(target=served, args=(server.accept()[0],), daemon=True).start()
"""


def make_certificates(folder: Path) -> None:
    """`ca.pem`, `server.pem` (with its key) for localhost, and `client.pem` with `client.key`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    client = authority.issue_cert("imagegen.example.com")
    client.private_key_pem.write_to_path(str(folder / "client.key"))
    client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))


@contextmanager
def redis_with_tls(folder: Path, *options: str) -> Iterator[str]:
    """Host and port of a server that requires client certificates; `options` are those of the server."""
    make_certificates(folder)
    port = free_port()
    if (server := shutil.which("redis-server")) is not None:
        files = ["--tls-cert-file", "server.pem", "--tls-key-file", "server.pem", "--tls-ca-cert-file", "ca.pem"]
        command = [server, "--port", "0", "--tls-port", str(port), *files, "--save", "", *options]
        with _running(Process(command, folder)):
            yield f"localhost:{port}"
    else:
        with valkey_server(folder, *options) as url:
            command = [sys.executable, "-c", TERMINATOR, str(port), str(folder), url.removeprefix("unix://")]
            with _running(Process(command, folder)):
                yield f"localhost:{port}"


@contextmanager
def _running(process: Process) -> Iterator[None]:
    try:
        process.wait_for("Ready to accept connections")
        yield
    finally:
        process.kill()
