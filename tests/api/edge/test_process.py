"""An API process starts fast, stays small, and names what is wrong with its settings."""

import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import psutil
import pytest

from tests.stack import Stack
from tests.support.process import Process

HEAVY = (
    *("torch", "diffusers", "transformers", "numpy", "PIL", "opentelemetry.sdk.trace", "opentelemetry.exporter"),
    "pydantic_settings",
)
MAX_BYTES = 90_000_000
#: Of the CPU, whatever else it does.
MAX_CPU_SECONDS = 5.0


def test_the_api_imports_no_heavy_library() -> None:
    code = f"import api.main, sys; print([name for name in {HEAVY} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"


def test_descriptions_of_fields_are_read_only_for_a_schema() -> None:
    code = """
import api.main, worker.housekeeper.main
from shared.jobs.job import Image
from shared.jobs.types import field_docstrings
print(field_docstrings.cache_info().currsize)
Image.model_json_schema()
print(field_docstrings.cache_info().currsize)
"""

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert loaded.stdout.split() == ["0", "1"]


def test_a_new_process_starts_fast_stays_small_and_stops_cleanly(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    # Executed: a forked process has imported everything, and more than it needs.
    monkeypatch.setattr(Process, "forked_modules", ())
    api = stack.start_api(SD_BACKENDS="null")
    api.get("/health")

    process = psutil.Process(api.process.pid)
    spent, rss = process.cpu_times(), process.memory_info().rss

    assert spent.user + spent.system < MAX_CPU_SECONDS
    assert rss < MAX_BYTES

    api.process.stop()

    assert api.process.wait() == 0
    assert api.process.lines[-1].endswith(f"Finished server process [{api.process.pid}]")
    assert "Traceback" not in api.process.output
    assert "Warning" not in api.process.output


def test_a_forced_stop_cuts_off_requests_and_is_no_success(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null")
    with socket.create_connection(("127.0.0.1", urlsplit(api.url).port)) as upload:
        headers = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue"
        upload.sendall(b"POST /api/jobs HTTP/1.1\r\n" + headers + b"\r\n\r\n")
        assert b"100 Continue" in upload.recv(100)
        api.process.send(signal.SIGINT)
        api.process.wait_for("Waiting for connections")
        api.process.send(signal.SIGINT)

        assert api.process.wait() == 128 + signal.SIGINT
    assert "Traceback" not in api.process.output


def test_a_missing_redis_url_ends_the_process_with_one_sentence(stack: Stack) -> None:
    process = stack.run([sys.executable, "-m", "api.main"], SD_REDIS_URL="")

    assert process.wait() == 1
    assert len(process.lines) == 1
    assert process.lines[0].startswith("SD_REDIS_URL is empty")


def test_an_invalid_setting_ends_the_process_with_one_sentence(stack: Stack) -> None:
    process = stack.run([sys.executable, "-m", "api.main"], SD_PORT="5ecret")

    assert process.wait() == 1
    assert len(process.lines) == 1
    assert process.lines[0].startswith("SD_PORT is wrong: ")
    assert "5ecret" not in process.output
