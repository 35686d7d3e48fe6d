"""The command line's own client of the API."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

#: Endings of file names and the formats they stand for.
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
CONNECT_SECONDS = 5
#: The stream of events pings every 15 s: twice as long in silence means that the service is gone.
SILENCE_SECONDS = 35


class Trouble(Exception):
    """The picture could not be had; the message says why and what to do."""


class Client:
    def __init__(self, url: str, console: Console, key: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._console = console
        self._http = requests.Session()
        if key is not None:
            self._http.auth = _bearer(key)

    def generate(self, body: Mapping[str, Any], output: Path) -> dict[str, Any]:
        """Submit, show progress, save the picture; the finished job. Raises Trouble."""
        if output.suffix.lower() not in FORMATS:
            raise Trouble(f"{output} should end in one of {', '.join(FORMATS)}.")
        request = {**body, "output_format": FORMATS[output.suffix.lower()]}
        with self._reached():
            job = self._checked(self._http.post(f"{self._url}/api/jobs", json=request, timeout=SILENCE_SECONDS)).json()
            job = self._watched(job)
            picture = self._checked(
                self._http.get(f"{self._url}{job['links']['self']}/images/0", timeout=SILENCE_SECONDS)
            )
        output.write_bytes(picture.content)
        return job

    def read(self, path: str) -> dict[str, Any]:
        """Raises Trouble."""
        with self._reached():
            answer = self._checked(self._http.get(self._url + path, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)))
            told: dict[str, Any] = answer.json()
            return told

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except requests.ConnectionError:
            raise Trouble(f"No service answers at {self._url}. Start it with `imagegen up`.") from None
        except requests.Timeout:
            raise Trouble(f"The service at {self._url} stopped answering.") from None
        except requests.JSONDecodeError:
            raise Trouble(f"What answers at {self._url} is something else than imagegen.") from None

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
        raise Trouble(
            "The service ended before the picture was done; `imagegen generate` again, or ask for the job later."
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

    @staticmethod
    def _checked(response: requests.Response) -> requests.Response:
        if response.ok:
            return response
        try:
            problem = response.json()
            wrong = "".join(f"\n  {field['pointer']}: {field['detail']}" for field in problem.get("errors", ()))
            raise Trouble(f"{problem['detail']}{wrong}")
        except (ValueError, KeyError):
            raise Trouble(f"The service answered {response.status_code}.") from None


def _bearer(key: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Sends the key to this service alone: requests drops Authorization when it is led to another host."""

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {key}"
        return request

    return authorize


def base64_of(picture: Path) -> str:
    """Raises Trouble."""
    try:
        return base64.b64encode(picture.read_bytes()).decode()
    except OSError as error:
        raise Trouble(f"{picture} cannot be read: {error.strerror}.") from None


def _succeeded(job: dict[str, Any]) -> dict[str, Any]:
    if job["state"] == "succeeded":
        return job
    raise Trouble(job["error"]["detail"] if job["error"] else f"The job was {job['state']}.")
