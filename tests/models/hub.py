"""A server that speaks as much of Hugging Face's protocol as a download of a model takes."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40
#: What each kind of refusal looks like.
REFUSALS = {
    "RepoNotFound": (404, {"X-Error-Code": "RepoNotFound"}),
    "GatedRepo": (403, {"X-Error-Code": "GatedRepo"}),
    "bad token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "forbidden": (403, {}),
    "unavailable": (503, {}),
}


class Hub:
    """Serves the files of one folder as a model, to who has the token; refuses everything else with `refusal`."""

    def __init__(self, url: str, name: str, folder: Path, token: str | None) -> None:
        self.url = url
        self.name = name
        self.folder = folder
        self.token = token
        self.refusal = "RepoNotFound"
        self.commit = COMMIT
        self.cuts: dict[str, list[int]] = {}
        """Of a file: bytes after which the connection breaks, one time after the other."""
        self.stalls: dict[str, int] = {}
        """Of a file: bytes after which hardly anything comes any more, until the server ends."""
        self.ended = threading.Event()
        self.ranges = True
        """Whether it can send a part of a file."""
        self.damage = False
        """Whether large files come with other bytes than they have."""
        self.sent: list[tuple[str, int]] = []
        """Each file that was asked for, and from which byte on."""
        self.asked = 0

    def answer(self, path: str, authorization: str | None, start: int) -> tuple[int, dict[str, str], bytes]:
        self.asked += 1
        allowed = self.token is None or authorization == f"Bearer {self.token}"
        looks = path.startswith(f"/api/models/{self.name}")
        # What is behind terms can be looked at, but not had.
        if self.name not in path or not (allowed or (looks and self.refusal == "GatedRepo")):
            return *REFUSALS[self.refusal], b""
        if looks:
            siblings = [self._sibling(name) for name in self._files()]
            return 200, {}, json.dumps({"id": self.name, "sha": self.commit, "siblings": siblings}).encode()
        return self._file(path.removeprefix(f"/{self.name}/resolve/"), start)

    def _file(self, path: str, start: int) -> tuple[int, dict[str, str], bytes]:
        commit, _, name = path.partition("/")
        if commit != self.commit:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if not (self.folder / name).is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        self.sent.append((name, start))
        data = (self.folder / name).read_bytes()
        if self.damage and name.endswith(".safetensors"):
            data = bytes(len(data))
        if not (start and self.ranges):
            return 200, {}, data
        return 206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:]

    def _files(self) -> list[str]:
        return [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]

    def _sibling(self, name: str) -> dict[str, object]:
        data = (self.folder / name).read_bytes()
        sibling: dict[str, object] = {"rfilename": name, "size": len(data)}
        if name.endswith((".safetensors", ".bin")):
            sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return sibling


@contextmanager
def hub_serving(name: str, folder: Path, token: str | None) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            path = unquote(urlsplit(self.path).path)
            status, headers, body = hub.answer(path, self.headers["Authorization"], start)
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(header, value)
            self.end_headers()
            cuts = hub.cuts.get(name := path.partition(f"/{hub.commit}/")[2])
            if name in hub.stalls:
                self.trickle(body, hub.stalls[name])
            else:
                self.wfile.write(body[: cuts.pop(0) if cuts else None])

        def trickle(self, body: bytes, sent: int) -> None:
            self.wfile.write(body[:sent])
            # Who asked may be gone.
            with suppress(OSError):
                while not hub.ended.wait(0.1):
                    self.wfile.write(body[sent : sent + 1])
                    sent += 1

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_port}", name, folder, token)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield hub
        hub.ended.set()
        server.shutdown()
