"""A fake Hugging Face that supports what its client needs to download a model."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40
#: The path of large files on another origin.
ELSEWHERE = "/elsewhere/"
#: Status, headers, body.
Answer = tuple[int, dict[str, str], bytes]
#: Status and headers of each refusal.
REFUSALS = {
    "RepoNotFound": (404, {"X-Error-Code": "RepoNotFound"}),
    "GatedRepo": (403, {"X-Error-Code": "GatedRepo"}),
    "bad token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "forbidden": (403, {}),
    "unavailable": (503, {}),
}


class Hub:
    """Serves one folder as a model to requests with the token; refuses all others with `refusal`."""

    def __init__(self, url: str, name: str, folder: Path, token: str | None) -> None:
        self.url = url
        self.name = name
        self.folder = folder
        self.token = token
        self.refusal = "RepoNotFound"
        self.commit = COMMIT
        self.cuts: dict[str, list[int]] = {}
        """By file: after how many bytes each connection breaks."""
        self.stalls: dict[str, int] = {}
        """By file: after how many bytes the server slows to a trickle."""
        self.gone: set[str] = set()
        """Listed files that cannot be downloaded."""
        self.ended = threading.Event()
        self.ranges = True
        """Whether it supports range requests."""
        self.damage = False
        """Whether large files arrive damaged."""
        self.elsewhere: str | None = None
        """The origin of large files."""
        self.sent: list[tuple[str, int]] = []
        """Each file that was sent, and the start of its range."""
        self.tokens_elsewhere: list[str | None] = []
        """The authorization of each request for a large file there."""
        self.num_requests = 0

    def answer(self, path: str, authorization: str | None, start: int, *, looks: bool) -> Answer:
        """`looks`: a HEAD request."""
        self.num_requests += 1
        if path.startswith(ELSEWHERE):
            self.tokens_elsewhere.append(authorization)
            return self._content(path.removeprefix(ELSEWHERE), start)
        allowed = self.token is None or authorization == f"Bearer {self.token}"
        about = path.startswith(f"/api/models/{self.name}")
        # Gated files can be listed, but not downloaded.
        if self.name not in path or not (allowed or (about and self.refusal == "GatedRepo")):
            return *REFUSALS[self.refusal], b""
        if about:
            return self._about(path.removeprefix(f"/api/models/{self.name}"))
        return self._file(path.removeprefix(f"/{self.name}/resolve/"), start, looks=looks)

    def _about(self, path: str) -> Answer:
        _, kind, commit = (path or f"/revision/{self.commit}").split("/")
        if commit != self.commit:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = [self._describe(path) for path in sorted(self.folder.rglob("*")) if path.is_file()]
        if kind == "tree":
            return 200, {}, json.dumps(files).encode()
        siblings = [{"rfilename": file["path"], "size": file["size"]} for file in files]
        card = {"license": "other", "license_name": "some-community-license"}
        about = {"id": self.name, "sha": self.commit, "siblings": siblings, "cardData": card}
        return 200, {}, json.dumps(about).encode()

    def _file(self, path: str, start: int, *, looks: bool) -> Answer:
        commit, _, name = path.partition("/")
        if commit != self.commit:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if name in self.gone or not (self.folder / name).is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        description = self._describe(self.folder / name)
        lfs = cast(dict[str, str], description.get("lfs") or {})
        headers = {"X-Repo-Commit": self.commit, "ETag": f'"{lfs.get("oid") or description["oid"]}"'}
        if self.elsewhere and lfs:
            linked = {"X-Linked-Size": str(description["size"]), "X-Linked-ETag": headers["ETag"]}
            return 302, {**headers, **linked, "Location": f"{self.elsewhere}{ELSEWHERE}{name}"}, b""
        if looks:
            return 200, headers, (self.folder / name).read_bytes()
        status, more, body = self._content(name, start)
        return status, headers | more, body

    def _content(self, name: str, start: int) -> Answer:
        self.sent.append((name, start))
        data = (self.folder / name).read_bytes()
        if self.damage and name.endswith(".safetensors"):
            data = bytes(len(data))
        if not (start and self.ranges):
            return 200, {}, data
        return 206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:]

    def _describe(self, path: Path) -> dict[str, object]:
        data = path.read_bytes()
        description: dict[str, object] = {
            "type": "file",
            "path": path.relative_to(self.folder).as_posix(),
            "size": len(data),
            "oid": hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest(),
        }
        if path.name.endswith((".safetensors", ".bin")):
            description["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return description


@contextmanager
def hub_serving(name: str, folder: Path, token: str | None) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send(looks=True)

        def do_GET(self) -> None:
            name, body = self.send(looks=False)
            cuts = hub.cuts.get(name)
            # The client may have closed the connection.
            with suppress(OSError):
                if name in hub.stalls:
                    self.trickle(body, hub.stalls[name])
                else:
                    self.wfile.write(body[: cuts.pop(0) if cuts else None])

        def send(self, *, looks: bool) -> tuple[str, bytes]:
            # The client gives an end only where it reads headers of weights; more does no harm there.
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            path = unquote(urlsplit(self.path).path)
            status, headers, body = hub.answer(path, self.headers["Authorization"], start, looks=looks)
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(header, value)
            self.end_headers()
            return path.removeprefix(ELSEWHERE).rpartition(f"/{hub.commit}/")[2], body

        def trickle(self, body: bytes, sent: int) -> None:
            self.wfile.write(body[:sent])
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
