"""A server that speaks S3, as a process of its own."""

import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from tests.stack import Process, free_port

REGION = "us-east-1"


class S3Server:
    """What it holds is lost when it stops."""

    def __init__(
        self, folder: Path, certificate: Path | None = None, address: str = "127.0.0.1", **settings: str
    ) -> None:
        """With TLS where there is a certificate, in a file with its key. `settings` are moto's own."""
        self._port = free_port()
        self._tls = ["-s", "-c", str(certificate), "-k", str(certificate)] if certificate else []
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._port}"
        self._address = address
        self._folder = folder
        self._settings = settings
        self._server: Process

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.kill()

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", self._address, "-p", str(self._port), *self._tls]
        self._server = Process(command, self._folder, **self._settings)
        self._server.wait_for("Running on")

    def stop(self) -> None:
        self._server.kill()

    def fall_silent(self) -> None:
        """Connections stay, answers do not come."""
        self._server.send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._server.send(signal.SIGCONT)

    def create(self, bucket: str, verify: bool | str = True) -> str:
        """Address of a new bucket, as SD_OUTPUT_URL has it."""
        assert requests.put(f"{self.url}/{bucket}", verify=verify, timeout=10).status_code == 200
        return f"s3://{bucket}"

    @property
    def credentials(self) -> dict[str, str]:
        """As processes find them in their environment."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret-of-somebody",
        }
