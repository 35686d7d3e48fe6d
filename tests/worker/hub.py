"""A server that speaks as much of Hugging Face's protocol as a download of a model takes."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0" * 40


class Hub:
    """Serves the files of one folder as a model, to who has the token; refuses every other name with `refusal`."""

    def __init__(self, url: str, name: str, folder: Path, token: str) -> None:
        self.url = url
        self.name = name
        self.folder = folder
        self.token = token
        self.refusal = "RepoNotFound"

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        if self.name not in path or authorization != f"Bearer {self.token}":
            return 404 if self.refusal.endswith("NotFound") else 403, {"X-Error-Code": self.refusal}, b""
        if path.startswith(f"/api/models/{self.name}/tree/"):
            return 200, {}, json.dumps([self._entry(name) for name in self._files()]).encode()
        if path.startswith(f"/api/models/{self.name}"):
            siblings = [{"rfilename": name} for name in self._files()]
            return 200, {}, json.dumps({"id": self.name, "sha": COMMIT, "siblings": siblings}).encode()
        file = self.folder / path.removeprefix(f"/{self.name}/resolve/").partition("/")[2]
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        data = file.read_bytes()
        return 200, {"ETag": hashlib.sha256(data).hexdigest(), "X-Repo-Commit": COMMIT}, data

    def _files(self) -> list[str]:
        return [str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()]

    def _entry(self, name: str) -> dict[str, object]:
        data = (self.folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha256(data).hexdigest()}


@contextmanager
def hub_serving(name: str, folder: Path, token: str) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = hub.answer(urlsplit(self.path).path, self.headers["Authorization"])
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_port}", name, folder, token)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield hub
        server.shutdown()
