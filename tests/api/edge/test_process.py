"""What an API process costs, and that it says what is wrong with it."""

import signal
import subprocess
import sys
import time

import psutil

from tests.stack import Stack

HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL")
MOST_BYTES = 90_000_000
MOST_SECONDS = 5.0


def test_the_api_loads_nothing_heavy() -> None:
    code = f"import api.main, sys; print([name for name in {HEAVY} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"


def test_a_fresh_process_answers_soon_and_is_small(stack: Stack) -> None:
    begin = time.monotonic()
    api = stack.start_api(SD_BACKENDS="null")
    api.get("/health")
    spent = time.monotonic() - begin

    rss = psutil.Process(api.process.pid).memory_info().rss

    assert spent < MOST_SECONDS
    assert rss < MOST_BYTES


def test_an_api_without_redis_named_ends_with_one_sentence(stack: Stack) -> None:
    process = stack.run([sys.executable, "-m", "api.main"], SD_REDIS_URL="")

    assert process.wait() == 1
    assert len(process.lines) == 1
    assert process.lines[0].startswith("SD_REDIS_URL is empty")


def test_a_wrong_setting_ends_the_process_with_one_sentence_that_names_it(stack: Stack) -> None:
    process = stack.run([sys.executable, "-m", "api.main"], SD_PORT="5ecret")

    assert process.wait() == 1
    assert len(process.lines) == 1
    assert process.lines[0].startswith("SD_PORT is wrong: ")
    assert "5ecret" not in process.output


def test_a_process_that_is_told_to_stop_ends_cleanly(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null")

    api.process.stop()

    assert api.process.wait() in (0, -signal.SIGTERM)
    assert api.process.lines[-1].endswith(f"Finished server process [{api.process.pid}]")
    assert "Traceback" not in api.process.output
    assert "Warning" not in api.process.output
