"""The API client of the command line."""

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from compose.cli.client_error import ClientError
from compose.cli.terminal import create_console
from shared.settings.http_server import is_loopback

#: Image formats by file extension.
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
#: More than any service accepts. Devices and pipes may have no end.
MAX_IMAGE_BYTES = 128 << 20
CONNECT_TIMEOUT_SECONDS = 5
#: The event stream pings every 15 s: the service is gone after more than two missed pings.
READ_TIMEOUT_SECONDS = 35


class ApiClient:
    def __init__(self, url: str, key: str | None = None) -> None:
        """Raises ClientError for a malformed URL."""
        self._url = base_url(url)
        parts = urlsplit(self._url)
        #: Without a login, for messages.
        self._shown_url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._console = create_console()
        self._http = requests.Session()
        # No proxy stands before this machine's own servers.
        self._http.trust_env = not is_loopback(parts.hostname or "")
        if key is not None:
            self._http.auth = _bearer(key)

    def generate(self, body: Mapping[str, Any], output: Path) -> dict[str, Any]:
        """Submit a job, show its progress, save the image, return the job. Raises ClientError."""
        request = {**{name: _text(value) for name, value in body.items()}, "output_format": _format_of(output)}
        with self._http_errors():
            job = self._json(self._http.post(f"{self._url}/api/jobs", json=request, timeout=READ_TIMEOUT_SECONDS))
            # Not its links: they begin with the path that the service has behind a proxy, as this URL may.
            path = f"/api/jobs/{job['id']}"
            with self._cancelled_by_interrupt(path):
                job = self._wait_for(path)
            path += "/images/0"
            content = self._checked(self._http.get(self._url + path, timeout=READ_TIMEOUT_SECONDS)).content
        try:
            output.write_bytes(content)
        except OSError as error:
            raise ClientError(
                f"{output} cannot be written ({error.strerror}); the image is at {self._shown_url}{path}."
            ) from None
        return job

    def read(self, path: str, *fields: str) -> dict[str, Any]:
        """A JSON response that has these fields. Raises ClientError."""
        with self._http_errors():
            content = self._json(
                self._http.get(self._url + path, timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS))
            )
            if not content.keys() >= set(fields):
                raise KeyError(path)
            return content

    @contextmanager
    def _http_errors(self) -> Iterator[None]:
        try:
            yield
        except requests.exceptions.SSLError:
            raise ClientError(
                f"The certificate of {self._shown_url} is not trusted, or the server does not support HTTPS."
            ) from None
        except requests.exceptions.ProxyError:
            raise ClientError(
                f"The proxy named in the environment refuses the connection to {self._shown_url}."
            ) from None
        except requests.Timeout:
            raise ClientError(f"The service at {self._shown_url} stopped responding.") from None
        except requests.exceptions.ChunkedEncodingError:
            raise ClientError(
                f"The service at {self._shown_url} closed the connection: see `imagegen status`."
            ) from None
        except requests.ConnectionError:
            raise ClientError(
                f"No service responds at {self._shown_url}. Start it with `imagegen up`, or wait if it is starting."
            ) from None
        except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError):
            # Not a response of this service, or not HTTP at all.
            raise ClientError(f"The server at {self._shown_url} is not imagegen.") from None

    @contextmanager
    def _cancelled_by_interrupt(self, path: str) -> Iterator[None]:
        """Ctrl-C cancels the job, because nobody else waits for it."""
        try:
            yield
        except KeyboardInterrupt:
            with suppress(requests.RequestException):
                if self._http.delete(self._url + path, timeout=CONNECT_TIMEOUT_SECONDS).ok:
                    print("The job was cancelled.", file=sys.stderr)
            raise

    def _wait_for(self, path: str) -> dict[str, Any]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            bar = progress.add_task("queued", total=None)
            for kind, data in self._events(f"{path}/events"):
                match kind:
                    case "state":
                        progress.update(bar, description=data["state"])
                    case "progress":
                        progress.update(bar, completed=data["step"], total=data["steps"])
                    case "done":
                        return _succeeded(data)
        raise ClientError(
            "The service stopped before the image was done: run `imagegen generate` again, or read the job later."
        )

    def _events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        with self._http.get(
            self._url + path, stream=True, timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
        ) as stream:
            kind = ""
            for line in self._checked(stream).iter_lines(chunk_size=1, decode_unicode=True):
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)

    def _json(self, response: requests.Response) -> dict[str, Any]:
        content = self._checked(response).json()
        if not isinstance(content, dict):
            raise TypeError("responses of this service are objects")
        return content

    def _checked(self, response: requests.Response) -> requests.Response:
        if response.ok:
            return response
        try:
            problem = response.json()
            if "code" not in problem:
                # FastAPI's own errors have a detail, too.
                raise KeyError("code")
            fields = [f"\n  {field['pointer']}: {field['detail']}" for field in problem.get("errors", ())]
            # The detail has the first one already.
            detail = problem["detail"] + ("".join(fields) if len(fields) > 1 else "")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ClientError(
                f"{self._shown_url} returned {response.status_code}, but not from imagegen: a proxy or another program."
            ) from None
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            detail += " The command line sends the first key in SD_API_KEY that may create jobs."
        raise ClientError(detail)


def base_url(url: str) -> str:
    """Raises ClientError."""
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        is_valid = False
    if not is_valid or any(character.isspace() for character in url):
        raise ClientError("The URL is malformed: write it like --url http://localhost:7860.")
    return url.rstrip("/")


def _format_of(output: Path) -> str:
    """Checked first, so that no image is generated that cannot be saved. Raises ClientError."""
    if output.suffix.lower() not in FORMATS:
        raise ClientError(f"{output} must end in one of {', '.join(FORMATS)}.")
    if output.is_dir():
        raise ClientError(f"{output} is a folder; name a file.")
    if not output.parent.is_dir():
        raise ClientError(f"There is no folder {output.parent}: create it, or choose another one for {output.name}.")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise ClientError(f"{output} cannot be written: this user has no write access.")
    return FORMATS[output.suffix.lower()]


def _text(value: Any) -> Any:
    """Text whose bytes are UTF-8, whatever the locale of this process says. Raises ClientError for other bytes."""
    try:
        # Python keeps bytes that are no text in its encoding as surrogates.
        return os.fsencode(value).decode() if isinstance(value, str) and not _is_text(value) else value
    except UnicodeError:
        raise ClientError("The prompt or an option is not UTF-8 text.") from None


def _is_text(value: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in value)


def _bearer(key: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Requests drops the Authorization header on a redirect to another host, so only this service gets the key."""

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {key}"
        return request

    return authorize


def base64_of(image: Path) -> str:
    """Raises ClientError."""
    try:
        with image.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise ClientError(f"{image} cannot be read: {error.strerror}.") from None
    if len(data) > MAX_IMAGE_BYTES:
        raise ClientError(f"{image} is larger than {MAX_IMAGE_BYTES >> 20} MB: it is not an image.")
    return base64.b64encode(data).decode()


def _succeeded(job: dict[str, Any]) -> dict[str, Any]:
    if job["state"] == "succeeded":
        return job
    raise ClientError(job["error"]["detail"] if job["error"] else f"The job was {job['state']}.")
