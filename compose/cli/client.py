"""The command line's own client of the API."""

import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from compose.cli.client_error import ClientError
from shared.settings.http_server import is_loopback

#: Endings of file names and the formats they stand for.
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
CONNECT_SECONDS = 5
#: The stream of events pings every 15 s: twice as long in silence means that the service is gone.
SILENCE_SECONDS = 35


class ApiClient:
    def __init__(self, url: str, console: Console, key: str | None = None) -> None:
        """Raises ClientError for what is no address."""
        self._url = _address(url)
        parts = urlsplit(self._url)
        #: Without a login, for people to read.
        self._place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._console = console
        self._http = requests.Session()
        # No proxy stands before this machine's own servers.
        self._http.trust_env = not is_loopback(parts.hostname or "")
        if key is not None:
            self._http.auth = _bearer(key)

    def generate(self, body: Mapping[str, Any], output: Path) -> dict[str, Any]:
        """Submit, show progress, save the image; the finished job. Raises ClientError."""
        request = {**body, "output_format": _format_of(output)}
        with self._reached():
            job = self._json(self._http.post(f"{self._url}/api/jobs", json=request, timeout=SILENCE_SECONDS))
            job = self._watched(job)
            path = f"{job['links']['self']}/images/0"
            content = self._checked(self._http.get(self._url + path, timeout=SILENCE_SECONDS)).content
        try:
            output.write_bytes(content)
        except OSError as error:
            raise ClientError(
                f"{output} cannot be written ({error.strerror}); the image is at {self._place}{path}."
            ) from None
        return job

    def read(self, path: str, *fields: str) -> dict[str, Any]:
        """An answer that has these fields. Raises ClientError."""
        with self._reached():
            answer = self._json(self._http.get(self._url + path, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)))
            if not answer.keys() >= set(fields):
                raise KeyError(path)
            return answer

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except requests.exceptions.SSLError:
            raise ClientError(
                f"{self._place} has no certificate that is trusted here, or does not speak https."
            ) from None
        except requests.exceptions.ProxyError:
            raise ClientError(f"The proxy that the environment names gives no connection to {self._place}.") from None
        except requests.Timeout:
            raise ClientError(f"The service at {self._place} stopped answering.") from None
        except requests.exceptions.ChunkedEncodingError:
            raise ClientError(f"The service at {self._place} ended the connection; see `imagegen status`.") from None
        except requests.ConnectionError:
            raise ClientError(f"No service answers at {self._place}. Start it with `imagegen up`.") from None
        except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError):
            # Something else than the answers of this service, or than HTTP at all.
            raise ClientError(f"What answers at {self._place} is something else than imagegen.") from None

    def _watched(self, job: Mapping[str, Any]) -> dict[str, Any]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            bar = progress.add_task("queued", total=None)
            for kind, data in self._events(job["links"]["events"]):
                match kind:
                    case "state":
                        progress.update(bar, description=data["state"])
                    case "progress":
                        progress.update(bar, completed=data["step"], total=data["steps"])
                    case "done":
                        return _succeeded(data)
        raise ClientError(
            "The service ended before the image was done; `imagegen generate` again, or ask for the job later."
        )

    def _events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        with self._http.get(self._url + path, stream=True, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)) as stream:
            kind = ""
            for line in self._checked(stream).iter_lines(chunk_size=1, decode_unicode=True):
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)

    def _json(self, response: requests.Response) -> dict[str, Any]:
        answer = self._checked(response).json()
        if not isinstance(answer, dict):
            raise TypeError("answers of this service are objects")
        return answer

    def _checked(self, response: requests.Response) -> requests.Response:
        if response.ok:
            return response
        try:
            problem = response.json()
            wrong = "".join(f"\n  {field['pointer']}: {field['detail']}" for field in problem.get("errors", ()))
            detail = f"{problem['detail']}{wrong}"
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ClientError(
                f"{self._place} answered {response.status_code}, and not as imagegen does: a proxy or another program."
            ) from None
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            detail += " The command line sends the first of SD_API_KEY that may make images."
        raise ClientError(detail)


def _address(url: str) -> str:
    """Raises ClientError."""
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or any(character.isspace() for character in url):
        raise ClientError("That is no address of a service; write it like --url http://localhost:7860.")
    return url.rstrip("/")


def _format_of(output: Path) -> str:
    """Looked at before anything is made that cannot be saved then. Raises ClientError."""
    if output.suffix.lower() not in FORMATS:
        raise ClientError(f"{output} should end in one of {', '.join(FORMATS)}.")
    if output.is_dir():
        raise ClientError(f"{output} is a folder; name a file.")
    if not output.parent.is_dir():
        raise ClientError(f"There is no folder {output.parent}: make it, or choose another for {output.name}.")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise ClientError(f"{output} cannot be written: this user may not.")
    return FORMATS[output.suffix.lower()]


def _bearer(key: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Sends the key to this service alone: requests drops Authorization when it is led to another host."""

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {key}"
        return request

    return authorize


def base64_of(image: Path) -> str:
    """Raises ClientError."""
    try:
        return base64.b64encode(image.read_bytes()).decode()
    except OSError as error:
        raise ClientError(f"{image} cannot be read: {error.strerror}.") from None


def _succeeded(job: dict[str, Any]) -> dict[str, Any]:
    if job["state"] == "succeeded":
        return job
    raise ClientError(job["error"]["detail"] if job["error"] else f"The job was {job['state']}.")
