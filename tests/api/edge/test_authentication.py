"""A service with API keys accepts requests with a valid key, as far as its scope allows."""

import base64
import socket
import sys
from urllib.parse import urlsplit

import pytest
import requests

from shared.errors import ConfigurationError
from shared.settings.api import ApiSettings
from tests.api.clients import ADMIN, ALICE, ALICE_READ_ONLY, BOB, UNKNOWN_ID, Client
from tests.api.problem import assert_problem
from tests.stack import Api, Stack


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": ALICE},
        {"Authorization": f"Bearer {ALICE}"},
        {"Authorization": f"bearer  {ALICE}"},
        {"Authorization": basic("anybody", ALICE)},
        {"Authorization": basic("", ALICE)},
        # http://KEY@host
        {"Authorization": basic(ALICE, "")},
        {"Authorization": f"Token {ALICE}"},
        {"Authorization": f"Key {ALICE}"},
        {"Authorization": basic("a-proxys-user", "a-proxys-password"), "X-API-Key": ALICE},
        {"Authorization": f"Bearer {ALICE}", "X-API-Key": ""},
    ],
)
def test_a_key_is_accepted_in_every_form_that_clients_send(keyed: Stack, headers: dict[str, str]) -> None:
    assert requests.get(f"{keyed.api.url}/info", headers=headers, timeout=10).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": ALICE[:-1]},
        {"X-API-Key": f"{ALICE}x"},
        {"X-API-Key": f"alice:{ALICE}"},
        {"X-API-Key": f"{ALICE},{BOB}"},
        {"X-API-Key": "é".encode()},
        {"X-API-Key": b"\xff" * 5000},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {ALICE}"},
        {"Authorization": ALICE},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic "},
        {"Authorization": "Basic !!!"},
        {"Authorization": f"Basic {ALICE}"},
        {"Authorization": basic(ALICE, "wrong-password-0123456789")},
        {"Authorization": f"Digest {ALICE}"},
        {"Cookie": f"X-API-Key={ALICE}"},
    ],
)
def test_a_request_without_a_valid_key_is_unauthorized(keyed: Stack, headers: dict[str, str]) -> None:
    answer = requests.get(f"{keyed.api.url}/info", headers=headers, timeout=10)

    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert ALICE not in answer.text


@pytest.mark.parametrize("name", ["api_key", "key", "X-API-Key", "token", "access_token", "signature"])
def test_a_key_in_the_query_is_ignored(stranger: Client, name: str) -> None:
    assert_problem(stranger.get("/info", params={name: ALICE}), 401, "unauthorized")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/txt2img"),
        ("POST", "/api/jobs"),
        ("GET", "/api/jobs"),
        ("GET", f"/api/jobs/{UNKNOWN_ID}"),
        ("DELETE", f"/api/jobs/{UNKNOWN_ID}"),
        ("GET", f"/api/jobs/{UNKNOWN_ID}/events"),
        ("GET", f"/api/jobs/{UNKNOWN_ID}/images/0"),
        ("GET", f"/api/jobs/{UNKNOWN_ID}/images/0?width=320"),
        ("GET", f"/api/jobs/{UNKNOWN_ID}/request"),
        ("GET", f"/api/images.zip?job={UNKNOWN_ID}"),
        ("GET", "/api/events"),
        ("PUT", f"/api/jobs/{UNKNOWN_ID}/pin"),
        ("DELETE", f"/api/jobs/{UNKNOWN_ID}/pin"),
        ("GET", "/api/backends"),
        ("GET", "/health"),
        ("GET", "/info"),
        ("GET", "/nothing"),
        ("GET", "//info"),
        ("GET", "/docs/../info"),
        ("GET", "/docs/nothing"),
        ("GET", "/health/live%2f..%2f..%2finfo"),
        ("PATCH", "/api/jobs"),
        ("OPTIONS", "/api/jobs"),
    ],
)
def test_every_path_except_public_ones_needs_a_key(keyed: Stack, method: str, path: str) -> None:
    address = urlsplit(keyed.api.url)
    with (
        socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=10) as call,
        call.makefile("rb") as answer,
    ):
        call.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.readline() == b"HTTP/1.1 401 Unauthorized\r\n"


def test_a_path_with_a_trailing_slash_needs_a_key(stranger: Client) -> None:
    answer = stranger.get("/info/")

    assert [redirect.status_code for redirect in answer.history] == [307]
    assert_problem(answer, 401, "unauthorized")
    assert_problem(stranger.request("POST", "/api/jobs/"), 401, "unauthorized")


@pytest.mark.parametrize(
    "path",
    [
        "/health/live",
        "//health/live",
        "/health/live/",
        "/health/ready",
        "/docs",
        "/docs/swagger-ui.css",
        "/openapi.json",
    ],
)
@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}])
def test_public_paths_need_no_key(stranger: Client, path: str, headers: dict[str, str]) -> None:
    status = stranger.get(path, headers=headers).status_code

    # Readiness is 503 for as long as a busy machine delays the heartbeat of the worker.
    assert status == 200 or (path, status) == ("/health/ready", 503)


def test_a_body_is_not_read_without_a_key(keyed: Stack) -> None:
    address = urlsplit(keyed.api.url)
    with socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=10) as call:
        head = "POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n"
        call.sendall(head.encode())
        answer = call.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer.lower()


def test_a_read_only_key_can_read(keyed: Stack, alice: Client) -> None:
    reader, job = Client(keyed.api, ALICE_READ_ONLY), alice.generate()

    for path in (job["links"]["self"], f"{job['links']['self']}/images/0", "/api/backends", "/api/jobs", "/health"):
        assert reader.get(path).status_code == 200, path
    assert job["id"] in reader.job_ids()
    events = reader.get(job["links"]["events"])
    assert events.text.count("event: done") == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/txt2img"),
        ("POST", "/api/jobs"),
        ("DELETE", "{job}"),
        ("DELETE", "{job}?purge=true"),
        ("PUT", "{job}/pin"),
        ("DELETE", "{job}/pin"),
    ],
)
def test_a_read_only_key_can_change_nothing(keyed: Stack, alice: Client, method: str, path: str) -> None:
    job = alice.generate()

    answer = Client(keyed.api, ALICE_READ_ONLY).request(method, path.format(job=job["links"]["self"]), data=b"not read")

    assert_problem(answer, 403, "forbidden")


def test_openapi_names_the_operations_that_need_a_key(stranger: Client) -> None:
    openapi = stranger.get("/openapi.json").json()

    assert set(openapi["components"]["securitySchemes"]) == {"key", "bearer", "basic"}
    needs_key = {path: all("security" in one for one in methods.values()) for path, methods in openapi["paths"].items()}
    assert {path for path, needed in needs_key.items() if not needed} == {"/health/live", "/health/ready"}


def test_a_service_without_keys_refuses_to_listen_on_the_network(stack: Stack) -> None:
    process = stack.run([sys.executable, "-m", "api.main"], SD_HOST="0.0.0.0")

    assert process.wait() == 1
    assert len(process.lines) == 1
    assert process.lines[0].startswith("SD_API_KEY is empty, and SD_HOST=0.0.0.0")
    with pytest.raises(ConfigurationError, match="SD_HOST=::"):
        ApiSettings(redis_url="redis://x", output_dir=stack.outputs, backends="null", host="::").require_keys()


@pytest.mark.parametrize("settings", [{"SD_ALLOW_OPEN": "true"}, {"SD_API_KEY": ALICE}])
def test_a_service_listens_on_the_network_with_a_key_or_explicit_consent(
    stack: Stack, settings: dict[str, str]
) -> None:
    api = stack.start_api(SD_HOST="0.0.0.0", **settings)

    assert api.get("/info").status_code == (200 if "SD_ALLOW_OPEN" in settings else 401)


def test_the_command_line_sends_the_first_key(keyed: Stack) -> None:
    command = [sys.executable, "-m", "compose.cli.app", "generate", "x", "--url", keyed.api.url]
    generate = keyed.run([*command, "-o", "with.png"])
    reader = keyed.run([*command, "-o", "reads.png"], SD_API_KEY=f"alice:{ALICE_READ_ONLY}:read")
    without = keyed.run([*command, "-o", "without.png"], SD_API_KEY="")

    assert [process.wait() for process in (generate, reader, without)] == [0, 1, 1]
    assert (keyed.folder / "with.png").stat().st_size > 0
    assert "This API key is read-only." in reader.output
    assert "The API key is missing or invalid" in without.output


def test_no_key_is_ever_logged(keyed: Stack) -> None:
    output = keyed.api.process.output + keyed.worker.output

    assert not [key for key in (ALICE, ALICE_READ_ONLY, BOB, ADMIN) if key in output]


def test_a_service_without_keys_ignores_keys(api: Api) -> None:
    assert api.get("/info", headers={"X-API-Key": "whatever"}).status_code == 200
