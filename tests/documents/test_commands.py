"""Every command in the documents works, or at least exists. CONTRIBUTING.md has the rules."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import typer.main
from requests.adapters import HTTPAdapter
from typer.core import TyperGroup
from urllib3.util import Retry

from compose.cli.app import cli
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import variable
from tests.api.images import encoded, half_mask, scene
from tests.compose.conftest import STOP_SECONDS, Launched
from tests.documents.reading import EXAMPLE_ID, ROOT, Block, blocks, table
from tests.stack import free_port
from tools.env_example import BUCKETS, COMPOSE, TRACES

#: Why a block cannot be run.
STOPPED = "stopped"
REASONS = ("docker", "gpu", "key", "long", "network", "start", STOPPED)
MOST_SECONDS = 30
BASH = shutil.which("bash") or "bash"
COMMANDS = blocks("sh")
MAKE_TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SETTINGS = {variable(name) for name in LauncherSettings.model_fields}
SETTINGS |= {name for name, *_ in (*BUCKETS, *TRACES, *COMPOSE)}


class Reader:
    """Runs the commands of documents in the folder of a running service."""

    def __init__(self, service: Launched) -> None:
        self.service = service
        self._folder = service.folder
        for name in ("in", "room", "sofa"):
            (self._folder / f"{name}.png").write_bytes(encoded(scene()))
        (self._folder / "mask.png").write_bytes(encoded(half_mask()))
        (self._folder / ".venv").symlink_to(sys.prefix)
        # curl fails on an HTTP error.
        (self._folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 20\n")
        self.job = self._submitted()

    def follow(self, block: Block) -> None:
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        if "curl " in block.text and not shutil.which("curl", path=path):
            pytest.skip("needs curl")
        environment = {**self.service.settings, "PATH": path, "HOME": str(self._folder), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [BASH, "-euo", "pipefail", "-c", self._adapted(block.text)],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=MOST_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")

    def _adapted(self, text: str) -> str:
        """The text with the port of this service and the id of an existing job."""
        cancels = re.search(rf"-X DELETE \S*/{EXAMPLE_ID}(\s|$)", text)
        job = self._submitted(num_inference_steps=100, metadata={"simulate": {"seconds": 60}}) if cancels else self.job
        return text.replace("localhost:7860", f"127.0.0.1:{self.service.port}").replace(EXAMPLE_ID, job)

    def _submitted(self, **fields: object) -> str:
        """Submits a job whose webhook cannot be delivered."""
        body = {"prompt": "a castle", "webhook_url": self.service.settings["SD_WEBHOOK_ALLOW"], **fields}
        job: str = requests.post(f"{self.service.url}/api/jobs", json=body, timeout=10).json()["id"]
        if not fields:
            requests.get(f"{self.service.url}/api/jobs/{job}/events", timeout=10).raise_for_status()
        return job


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    unreachable = f"http://127.0.0.1:{free_port()}"
    settings = {"SD_FLOWER_PORT": "0", "SD_WEBHOOK_ALLOW": unreachable}
    with Launched(tmp_path_factory.mktemp("reader"), **settings) as service:
        yield Reader(service.is_ready())


@pytest.mark.parametrize("block", [block for block in COMMANDS if not block.reason], ids=str)
def test_commands_succeed(block: Block, reader: Reader) -> None:
    reader.follow(block)


def test_every_call_is_described(reader: Reader) -> None:
    described = {cells[0].strip("`") for cells in table("docs/api.md", "| call | does |")}
    schema = requests.get(f"{reader.service.url}/openapi.json", timeout=10).json()
    protocols = {tag["name"] for tag in schema["tags"]}
    operations = [
        (f"{method.upper()} {path}", not protocols & set(operation["tags"]))
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    calls = {name for name, is_native in operations if is_native}

    assert calls - described == set(), "has no row in docs/api.md"
    clients = (ROOT / "docs/clients.md").read_text()
    others = {name.partition(" ")[2].partition("/{")[0] for name, is_native in operations if not is_native}
    assert {path for path in others if path not in clients} == set(), "is not in docs/clients.md"
    assert described - calls == {"GET /", "GET /docs"}


def test_a_restored_backup_has_the_images_and_a_damaged_log_can_be_repaired(reader: Reader) -> None:
    folder = reader.service.folder
    image = f"/api/jobs/{reader.job}/images/0"
    before = requests.get(reader.service.url + image, timeout=10).content
    reader.service.launcher.stop(STOP_SECONDS)

    back_up, restore, repair = (block for block in COMMANDS if block.reason == STOPPED)
    reader.follow(back_up)
    for name in ("data", "outputs"):
        shutil.rmtree(folder / name)
    reader.follow(restore)
    (log,) = folder.glob("data/appendonlydir/*.incr.aof")
    with log.open("ab") as end:
        # What some file systems leave there.
        end.write(bytes(100))
    reader.follow(repair)

    with Launched(folder, **{**reader.service.settings, "SD_PORT": str(free_port())}) as restored:
        after = patient_get(f"http://127.0.0.1:{restored.settings['SD_PORT']}{image}")
        assert (after.status_code, after.content) == (200, before)


def patient_get(url: str) -> requests.Response:
    """Retries until the API listens, which it does long before the worker is ready."""
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=Retry(None, connect=400, backoff_factor=0.1, backoff_max=0.1)))
        return session.get(url, timeout=10)


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_commands_and_their_options_exist(block: Block) -> None:
    assert block.reason in ("", *REASONS), f"a block is run, or gives one of the reasons {', '.join(REASONS)}"
    subprocess.run([BASH, "-n"], input=block.text, text=True, check=True)
    for words in commands(block.text):
        match words:
            case ["make", *targets]:
                assert {target for target in targets if "=" not in target} <= MAKE_TARGETS
            case [program, *arguments] if Path(program).name == "imagegen":
                parse(arguments)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command, without the settings before it."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        # Part of a quoted text over several lines: no command.
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        while words and re.match(r"[A-Z_]+=", words[0]):
            assert words[0].partition("=")[0] in SETTINGS
            words = words[1:]
        yield words


def parse(arguments: list[str]) -> None:
    """Raises KeyError for an unknown command and a click error for an unknown option."""
    command = typer.main.get_command(cli)
    while isinstance(command, TyperGroup):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(command.name, arguments)


@pytest.mark.parametrize("block", blocks("dotenv"), ids=str)
def test_settings_exist(block: Block) -> None:
    names = [line.partition("=")[0] for line in block.text.splitlines() if line and not line.startswith("#")]

    assert names
    assert set(names) <= SETTINGS
