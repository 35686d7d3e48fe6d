"""The time from `imagegen up` to the first image."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import requests

from bench.figures import Figure, Goal, Scale
from bench.service import PROMPT
from tests.compose.conftest import Launched

ROUNDS = 3
GOALS = {"null": 2.5, "sd": 8.0}


def measure(scale: Scale) -> Iterator[Figure]:
    for backend, goal in GOALS.items():
        rounds = []
        for number in range(1, ROUNDS + 1):
            scale.show_progress(f"first image of {backend}: round {number} of {ROUNDS}")
            rounds.append(_seconds(backend))
        name = "starter" if backend == "sd" else backend
        yield Figure(f"imagegen up to first image, {name}", sorted(rounds)[ROUNDS // 2], "s", Goal(goal), tuple(rounds))


def _seconds(backend: str) -> float:
    with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as name:
        begin = time.perf_counter()
        with Launched(Path(name), SD_BACKENDS=backend) as launched:
            # Retries at once, as a person does who does not wait for the banner.
            while True:
                with suppress(requests.ConnectionError):
                    answer = requests.post(f"{launched.url}/api/txt2img", json={"prompt": PROMPT}, timeout=60)
                    if answer.status_code == 200:
                        return time.perf_counter() - begin
                time.sleep(0.02)
