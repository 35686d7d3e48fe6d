"""A Redis server behind TLS: Debian's, which speaks it, or the bundled one with a process in front that does."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from tests.stack import Process, free_port, valkey_server

#: Passes on what comes over TLS; arguments: port, folder of certificates, socket of the server.
TERMINATOR = """
import asyncio, ssl, sys
port, folder, socket = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=f"{folder}/ca.pem")
context.load_cert_chain(f"{folder}/server.pem")
context.verify_mode = ssl.CERT_REQUIRED

async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def serve(reader, writer):
    inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
    await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer), return_exceptions=True)

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(port), ssl=context)
    print("Ready to accept connections", flush=True)
    await server.serve_forever()

asyncio.run(main())
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
    """Host and port of a server that wants certificates of its clients; `options` are the server's own."""
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
