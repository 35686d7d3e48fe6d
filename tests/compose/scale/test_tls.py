"""Redis over TLS, with certificates on both sides and a user limited to the keys of this service."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from shared.errors import ConfigurationError
from shared.redis.store import require_redis
from shared.settings.api import ApiSettings
from shared.settings.loading import load
from tests.compose.scale.tls import redis_with_tls
from tests.stack import Stack, free_port
from tests.support.polling import wait_until

PASSWORD = "its-password"
SCALING = Path(__file__).parents[3] / "docs/scaling.md"
CERTIFICATES = {"SD_CA_FILE": "ca.pem", "SD_REDIS_CERT_FILE": "client.pem", "SD_REDIS_KEY_FILE": "client.key"}


def user_of_the_document() -> list[str]:
    """The ACL of the document's user, for this prefix."""
    (line,) = re.findall(r"^user (imagegen on .*)$", SCALING.read_text(), re.MULTILINE)
    assert ">PASSWORD ~imagegen:* " in line
    return str(line).replace("PASSWORD", PASSWORD).replace("~imagegen:", "~tls:").split()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("tls")
    with redis_with_tls(folder, "--user", *user_of_the_document(), "--user", "default", "off") as address:
        url = f"rediss://imagegen:{PASSWORD}@{address}/0"
        files = {name: str(folder / file) for name, file in CERTIFICATES.items()}
        with Stack(url, folder, SD_BACKENDS="null", **(files | {"SD_REDIS_PREFIX": "tls:"})) as stack:
            stack.prefix = "tls:"
            stack.start_worker("null")
            stack.start_housekeeper()
            stack.start_api()
            yield stack


def test_jobs_run_and_send_events_over_tls(stack: Stack) -> None:
    assert stack.api.post("/api/txt2img", {"prompt": "x"}).status_code == 200
    job_id = stack.api.post("/api/jobs", {"prompt": "x", "metadata": {"simulate": {"seconds": 0.3}}}).json()["id"]

    assert {"state", "progress", "done"} <= {event.type for event in stack.api.all_events(job_id)}
    assert stack.api.get("/health").json()["status"] == "ok"
    for process in (*stack.workers, stack.api.process):
        assert "NOPERM" not in process.output
        assert "Traceback" not in process.output


def test_the_dashboard_shows_workers_and_queues_over_tls(stack: Stack) -> None:
    port = free_port()
    flower = stack.run([sys.executable, "-m", "compose.launcher.flower"], SD_FLOWER_PORT=str(port))
    flower.wait_for("Visit me at")

    def api(path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{port}/{path}", timeout=20)

    wait_until(lambda: "null-0@tls" in api("workers?json=1").text)
    wait_until(lambda: "generate.null" in api("broker").text)
    assert "Traceback" not in flower.output


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"SD_CA_FILE": ""}, "SD_REDIS_URL or SD_CA_FILE is wrong: the server's certificate is not trusted"),
        ({"SD_REDIS_CERT_FILE": "", "SD_REDIS_KEY_FILE": ""}, "SD_REDIS_URL or SD_REDIS_CERT_FILE is wrong"),
        ({"SD_CA_FILE": __file__}, "SD_CA_FILE is wrong: the file has no readable certificate (PEM)."),
        ({"SD_REDIS_CERT_FILE": __file__}, "SD_REDIS_CERT_FILE or SD_REDIS_KEY_FILE is wrong"),
        ({"SD_REDIS_KEY_FILE": __file__}, "SD_REDIS_CERT_FILE or SD_REDIS_KEY_FILE is wrong"),
        ({"SD_REDIS_KEY_FILE": ""}, "SD_REDIS_CERT_FILE or SD_REDIS_KEY_FILE is wrong"),
        ({"SD_CA_FILE": "missing.pem"}, "SD_CA_FILE is wrong: names a file that does not exist."),
    ],
)
def test_a_wrong_certificate_is_reported_in_one_sentence(
    stack: Stack, wrong: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (stack.settings | wrong).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as raised:
        require_redis(load(ApiSettings).redis_url)

    assert raised.value.detail.startswith(message)
    assert PASSWORD not in raised.value.detail


def test_a_wrong_password_ends_the_start_with_one_sentence(stack: Stack) -> None:
    url = stack.settings["SD_REDIS_URL"].replace(PASSWORD, "another-one")

    process = stack.run([sys.executable, "-m", "api.main"], SD_REDIS_URL=url)

    assert process.wait() == 1
    assert process.lines[-1] == "SD_REDIS_URL is wrong: the Redis server refuses its user name or password."
