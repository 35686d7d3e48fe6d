"""A service with keys opens to those who hold one, as far as the key allows."""

import base64
import socket
import sys
from urllib.parse import urlsplit

import pytest
import requests

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
        {"Authorization": basic("a-proxys-user", "a-proxys-password"), "X-API-Key": ALICE},
        {"Authorization": f"Bearer {ALICE}", "X-API-Key": ""},
    ],
)
def test_a_key_is_taken_in_each_form_that_clients_send(keyed: Stack, headers: dict[str, str]) -> None:
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
        {"Authorization": basic(ALICE, "")},
        {"Authorization": f"Digest {ALICE}"},
        {"Cookie": f"X-API-Key={ALICE}"},
    ],
)
def test_without_a_key_there_is_nothing(keyed: Stack, headers: dict[str, str]) -> None:
    answer = requests.get(f"{keyed.api.url}/info", headers=headers, timeout=10)

    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert ALICE not in answer.text


@pytest.mark.parametrize("name", ["api_key", "key", "X-API-Key", "token", "access_token", "signature"])
def test_a_key_in_an_address_is_none(stranger: Client, name: str) -> None:
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
def test_every_address_but_the_open_ones_wants_a_key(keyed: Stack, method: str, path: str) -> None:
    address = urlsplit(keyed.api.url)
    with (
        socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=10) as call,
        call.makefile("rb") as answer,
    ):
        call.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.readline() == b"HTTP/1.1 401 Unauthorized\r\n"


def test_who_is_led_to_an_address_without_its_last_slash_wants_a_key_there(stranger: Client) -> None:
    led = stranger.get("/info/")

    assert [each.status_code for each in led.history] == [307]
    assert_problem(led, 401, "unauthorized")


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
def test_what_needs_no_key_is_open(stranger: Client, path: str, headers: dict[str, str]) -> None:
    assert stranger.get(path, headers=headers).status_code == 200


def test_a_body_is_not_read_for_who_has_no_key(keyed: Stack) -> None:
    address = urlsplit(keyed.api.url)
    with socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=10) as call:
        head = "POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n"
        call.sendall(head.encode())
        answer = call.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer.lower()


def test_a_key_that_may_only_look_looks(keyed: Stack, alice: Client) -> None:
    looker, job = Client(keyed.api, ALICE_READ_ONLY), alice.generate()

    for path in (job["links"]["self"], f"{job['links']['self']}/images/0", "/api/backends", "/api/jobs", "/health"):
        assert looker.get(path).status_code == 200, path
    assert job["id"] in looker.job_ids()
    events = looker.get(job["links"]["events"])
    assert events.text.count("event: done") == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/txt2img"),
        ("POST", "/api/jobs"),
        ("DELETE", "{job}"),
        ("PUT", "{job}/pin"),
        ("DELETE", "{job}/pin"),
    ],
)
def test_a_key_that_may_only_look_changes_nothing(keyed: Stack, alice: Client, method: str, path: str) -> None:
    job = alice.generate()

    answer = Client(keyed.api, ALICE_READ_ONLY).request(method, path.format(job=job["links"]["self"]), data=b"not read")

    assert_problem(answer, 403, "forbidden")


def test_every_operation_says_that_it_wants_a_key(stranger: Client) -> None:
    described = stranger.get("/openapi.json").json()

    assert set(described["components"]["securitySchemes"]) == {"key", "bearer", "basic"}
    wants = {path: all("security" in one for one in methods.values()) for path, methods in described["paths"].items()}
    assert {path for path, key in wants.items() if not key} == {"/health/live", "/health/ready"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_service_without_keys_does_not_open_to_the_network(stack: Stack, host: str) -> None:
    process = stack.run([sys.executable, "-m", "api.main"], SD_HOST=host)

    assert process.wait() == 1
    assert len(process.lines) == 1
    assert process.lines[0].startswith(f"SD_API_KEY is empty, and SD_HOST={host}")


@pytest.mark.parametrize("settings", [{"SD_ALLOW_OPEN": "true"}, {"SD_API_KEY": ALICE}])
def test_the_operator_may_open_it(stack: Stack, settings: dict[str, str]) -> None:
    api = stack.start_api(SD_HOST="0.0.0.0", **settings)

    assert api.get("/info").status_code == (200 if "SD_ALLOW_OPEN" in settings else 401)


def test_the_command_line_sends_the_key_that_makes_jobs(keyed: Stack) -> None:
    command = [sys.executable, "-m", "compose.cli.app", "generate", "x", "--url", keyed.api.url]
    generate = keyed.run([*command, "-o", "with.png"])
    looker = keyed.run([*command, "-o", "looks.png"], SD_API_KEY=f"alice:{ALICE_READ_ONLY}:read")
    without = keyed.run([*command, "-o", "without.png"], SD_API_KEY="")

    assert [one.wait() for one in (generate, looker, without)] == [0, 1, 1]
    assert (keyed.folder / "with.png").stat().st_size > 0
    assert "This API key is read-only." in looker.output
    assert "Send a key" in without.output


def test_no_key_is_ever_logged(keyed: Stack) -> None:
    output = keyed.api.process.output + keyed.worker.output

    assert not [key for key in (ALICE, ALICE_READ_ONLY, BOB, ADMIN) if key in output]


def test_without_keys_a_key_is_not_looked_at(api: Api) -> None:
    assert api.get("/info", headers={"X-API-Key": "whatever"}).status_code == 200
