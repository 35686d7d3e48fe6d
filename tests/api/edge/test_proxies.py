"""Path prefixes of proxies, HTTP/1.0, double and trailing slashes."""

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urljoin, urlsplit
from zipfile import ZipFile

import pytest
import requests

from tests.api.wire import send_raw
from tests.stack import Api, Stack, free_port

PREFIX = "/imagegen"


def handler(upstream: str, strips: bool, headers: dict[str, str]) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        def go(self) -> None:
            path = self.path.removeprefix(PREFIX) if strips else self.path
            if not self.path.startswith(f"{PREFIX}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            server = HTTPConnection(urlsplit(upstream).netloc, timeout=30)
            kept = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            server.request(self.command, path, body or None, {**kept, **headers})
            answer = server.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            server.close()

        do_GET = do_POST = go  # noqa: N815 - as the library calls them

        def log_message(self, *_: object) -> None:
            pass

    return Proxy


@contextmanager
def proxy(port: int, upstream: Api, strips: bool = True, **headers: str) -> Iterator[str]:
    """The URL of the service behind a proxy that serves it at PREFIX."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler(upstream.url, strips, headers))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{port}{PREFIX}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def trusting(null: Stack) -> Api:
    return null.start_api(SD_TRUSTED_PROXIES="127.0.0.1")


@pytest.fixture(scope="module")
def public(null: Stack) -> tuple[Api, int]:
    """An API with a public URL, and the port of its proxy."""
    port = free_port()
    return null.start_api(SD_PUBLIC_URL=f"http://127.0.0.1:{port}{PREFIX}"), port


@pytest.fixture(scope="module", params=["public-url", "not-stripped", "forwarded"])
def root(public: tuple[Api, int], trusting: Api, request: pytest.FixtureRequest) -> Iterator[str]:
    api, port = public
    headers = {}
    if request.param == "forwarded":
        api, headers = trusting, {"X-Forwarded-Prefix": f"{PREFIX}/"}
    with proxy(port, api, request.param != "not-stripped", **headers) as url:
        yield url


def test_every_link_in_an_answer_has_the_prefix(root: str) -> None:
    answer = requests.post(f"{root}/api/txt2img", json={"prompt": "x"}, timeout=30)
    job = answer.json()
    accepted = requests.post(f"{root}/api/jobs", json={"prompt": "x"}, timeout=30)
    slash = requests.get(f"{root}/api/jobs/?limit=1", allow_redirects=False, timeout=30)
    page = requests.get(f"{root}/docs", timeout=30).text
    openapi_url = re.search(r"url: '([^']+)'", page)
    assert openapi_url
    addresses = [
        accepted.headers["location"],
        job["links"]["self"],
        job["links"]["events"],
        job["images"][0]["url"],
        slash.headers["location"],
        openapi_url[1],
        *re.findall(r'(?:src|href)="(/[^"]+)"', page),
        *requests.get(f"{root}/info", timeout=30).json()["links"].values(),
    ]

    statuses = {link: requests.get(urljoin(f"{root}/docs", link), timeout=30).status_code for link in addresses}

    assert set(statuses.values()) == {200}, statuses
    # Some clients append a link to the base URL that they know.
    assert requests.get(root + job["links"]["self"], timeout=30).status_code == 200


def test_openapi_names_the_prefix_as_its_server(root: str) -> None:
    (server,) = requests.get(f"{root}/openapi.json", timeout=30).json()["servers"]

    assert server["url"] == PREFIX


@pytest.mark.parametrize("prefix", ["//evil.example.com", "/a b", "/a\\b", "evil", "/a?b", "/\u00e9", "/../x", "/x/.."])
def test_a_prefix_that_is_not_a_path_is_ignored(trusting: Api, prefix: str) -> None:
    answer = trusting.get("/info", headers={"X-Forwarded-Prefix": prefix.encode().decode("latin-1")})

    assert answer.json()["links"]["docs"] == f"{trusting.url}/docs"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/api/jobs"])
def test_a_request_of_http_1_0_needs_no_host(api: Api, path: str) -> None:
    answer = send_raw(api, f"GET {path} HTTP/1.0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200")


def test_a_response_of_unknown_length_has_no_chunks_for_http_1_0(api: Api) -> None:
    job = api.post("/api/txt2img", {"prompt": "x"}).json()

    answer = send_raw(api, f"GET /api/images.zip?job={job['id']} HTTP/1.0\r\n\r\n")

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert ZipFile(io.BytesIO(body)).testzip() is None


def test_a_probe_needs_no_host(api: Api) -> None:
    answer = send_raw(api, "GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["//api/jobs", "/api//jobs", "///api///jobs"])
def test_double_slashes_count_as_one(api: Api, path: str) -> None:
    answer = send_raw(api, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["//api/jobs", "/api//jobs", "//health"])
def test_double_slashes_bypass_no_authentication(keyed: Stack, path: str) -> None:
    answer = send_raw(keyed.api, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 401")


def test_a_trailing_slash_counts_as_none(api: Api) -> None:
    posted = api.http.post(f"{api.url}/v1/images/generations/", json={"prompt": "x"}, timeout=60, allow_redirects=False)
    read = api.get("/api/jobs/?limit=1")

    assert (posted.status_code, read.status_code) == (200, 200)
    assert [answer.status_code for answer in read.history] == [307]
    assert len(read.json()["jobs"]) == 1


@pytest.mark.parametrize(
    "path", ["//evil.example.com/", "/\\evil.example.com/", "/%5cevil.example.com/", "/a%0d%0ab: c/"]
)
def test_a_trailing_slash_redirects_to_no_other_host(api: Api, path: str) -> None:
    answer = send_raw(api, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    location = re.search(rb"(?m)^location: (.*?)\r$", answer)
    assert location is None or re.match(rb"/[^/\\]", location[1])
    assert b"\r\nb: c" not in answer


def test_a_list_in_several_headers_counts_as_one(api: Api) -> None:
    body = '{"prompt": "x"}'
    headers = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    accept = "Accept: text/html\r\nAccept: image/png"

    answer = send_raw(api, f"POST /api/txt2img HTTP/1.1\r\n{headers}\r\n{accept}\r\n\r\n{body}")

    assert b"content-type: image/png" in answer
