"""The JSON log of every process."""

import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.observability import logs
from tests.compose.conftest import STOP_SECONDS, Launched
from tests.compose.monitoring.conftest import CANARY
from tests.stack import free_port
from tests.support.polling import wait_until
from tests.support.process import Process

KEY = "the-key-of-somebody-0123"


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """Every line of a service from its start to its end, with one succeeded and one failed job."""
    settings = {"SD_LOG_FORMAT": "json", "SD_ACCESS_LOG": "true", "SD_API_KEY": KEY}
    with Launched(tmp_path_factory.mktemp("logs"), **settings, SD_FLOWER_PORT=str(free_port())) as service:
        service.launcher.wait_for('"message": "ready"', "the housekeeper is ready")
        for simulation in ({}, {"fail": "out-of-memory"}):
            body = {"prompt": f"a {CANARY}", "metadata": {"simulate": simulation, "key": CANARY}}
            url = f"{service.url}/api/txt2img?{CANARY}={CANARY}"
            requests.post(url, json=body, headers={"X-API-Key": KEY}, timeout=30)
        wait_until(lambda: "out-of-memory" in service.launcher.output)
        service.launcher.send(signal.SIGTERM)
        assert service.launcher.wait(STOP_SECONDS) == 0
        yield [json.loads(line) for line in service.launcher.lines]


def test_every_line_of_every_process_is_json(entries: list[dict[str, Any]]) -> None:
    assert {entry["service"] for entry in entries} == {"imagegen", "redis", "api", "worker-null"}
    assert all({"time", "level", "message"} <= set(entry) for entry in entries)
    assert [entry["message"] for entry in entries][-1] == "Stopped; nothing is left running."


def test_entries_about_a_job_name_the_job_its_backend_and_its_worker(entries: list[dict[str, Any]]) -> None:
    ends = [entry for entry in entries if entry.get("logger") == "worker.jobs.runner"]

    assert [entry["message"].split()[2] for entry in ends] == ["succeeded", "out-of-memory"]
    for entry in ends:
        assert entry["job_id"] in entry["message"]
        assert entry["backend"] == "null"
        assert entry["worker"].startswith("null@")


def test_each_request_is_logged_without_its_query(entries: list[dict[str, Any]]) -> None:
    ends = [entry["job_id"] for entry in entries if entry.get("logger") == "worker.jobs.runner"]
    accesses = [entry for entry in entries if entry.get("logger") == "api.access" and entry["method"] == "POST"]

    assert [(entry["status"], entry["job_id"]) for entry in accesses] == list(zip((200, 507), ends, strict=True))
    assert all(entry["message"].startswith("POST /api/txt2img ") for entry in accesses)
    assert [entry["message"].partition(" ms")[2] for entry in accesses] == [
        "",
        ": The device has too little memory for this size.",
    ]
    assert all(entry["milliseconds"] > 0 for entry in accesses)


def test_no_line_contains_a_prompt_or_a_key(entries: list[dict[str, Any]]) -> None:
    text = json.dumps(entries)

    assert CANARY not in text
    assert KEY not in text


def test_an_uncaught_error_is_one_entry_with_its_traceback(tmp_path: Path) -> None:
    configure = "from shared.observability import logs\nlogs.configure_logging('json', backend='sd')\n"
    code = f"{configure}import warnings\nwarnings.warn('x')\n1 / 0"
    process = Process([sys.executable, "-c", code], tmp_path)

    process.wait()

    warning, bug = map(json.loads, process.lines)
    assert (warning["level"], warning["logger"]) == ("warning", "py.warnings")
    assert (bug["level"], bug["backend"]) == ("critical", "sd")
    assert "ZeroDivisionError" in bug["exception"]


def test_the_text_format_adds_the_job_to_messages_that_do_not_name_it() -> None:
    formatter = logs.TextFormatter()
    record = logging.LogRecord("x", logging.WARNING, "", 0, "out of memory", (), None)

    with logs.log_context(job_id="019a"):
        bound = formatter.format(record)

    assert bound.endswith("WARNING out of memory (job 019a)")
    assert formatter.format(record).endswith("out of memory")


def test_closed_standard_streams_are_empty_ones(tmp_path: Path) -> None:
    code = "import sys; from shared.observability.logs import open_standard_streams as go; go(); exit(*sys.stdin)"

    process = Process(["sh", "-c", f"exec {sys.executable} -c '{code}' <&- >&-"], tmp_path)

    assert process.wait() == 0, process.output


def test_what_the_broker_retries_leaves_no_tracebacks(tmp_path: Path) -> None:
    configure = "import logging\nfrom shared.observability import logs\nlogs.configure_logging('text')\n"
    log = "for name in ('kombu.transport.redis', 'ours'):\n logging.getLogger(name).warning('', exc_info=OSError(name))"
    process = Process([sys.executable, "-c", configure + log], tmp_path)

    process.wait()

    assert "OSError: ours" in process.output
    assert "OSError: kombu" not in process.output
