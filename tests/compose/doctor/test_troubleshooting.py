"""Every row of the troubleshooting table has a check that finds it, and a remedy."""

import fcntl
import itertools
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from compose.doctor.asking import ProbeResponse
from compose.doctor.findings import Level
from compose.doctor.surroundings import Surroundings
from tests.compose.doctor.surroundings import CPU, MPS, around, found, loading_worker
from tests.stack import free_port
from tests.worker.engines.bfl.provider import provider, refused
from worker.housekeeper.ownership import MARK
from worker.models.download_plans import INCOMPLETE_DIR, INCOMPLETE_SUFFIX, DownloadPlan, PlannedFile

OPERATIONS = Path(__file__).parents[3] / "docs/operations.md"
#: One model that is larger than any machine's memory, and one that is small; neither is downloaded here.
LARGE, SMALL = 10**16, 10**6


def rows() -> dict[str, list[str]]:
    """What is seen, and the checks that are named for it."""
    lines = OPERATIONS.read_text().splitlines()
    start = lines.index("| what you see | check | what to do |") + 2
    cells = [line.split("|") for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start:])]
    return {cell[1].strip(): re.findall(r"`(\w+)`", cell[2]) for cell in cells}


class Scenes:
    """For each row, the trouble itself."""

    def __init__(self, folder: Path, redis_url: str, stack: ExitStack) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.stack = stack

    def out_of_memory(self) -> Surroundings:
        self.planned("big/model", LARGE)
        return around(self.folder, model_id="big/model", safety_checker=False)

    def slow(self) -> Surroundings:
        return around(self.folder, probed=CPU, model_id="stabilityai/stable-diffusion-xl-base-1.0")

    def hanging_download(self) -> Surroundings:
        folder = self.planned("some/model", SMALL)
        (folder / INCOMPLETE_DIR).mkdir(parents=True)
        (folder / INCOMPLETE_DIR / f"model{INCOMPLETE_SUFFIX}").write_bytes(b"begun")
        for file in folder.rglob("*"):
            os.utime(file, (time.time() - 600,) * 2)
        descriptor = os.open(folder, os.O_RDONLY)
        self.stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return around(self.folder, model_id="some/model", safety_checker=False)

    def black_images(self) -> Surroundings:
        return around(self.folder, probed=MPS, dtype="float16")

    def still_loading(self) -> Surroundings:
        self.stack.enter_context(loading_worker(self.redis_url, "troubled:"))
        return around(self.folder, redis_url=self.redis_url, redis_prefix="troubled:")

    def taken_port(self) -> Surroundings:
        listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return around(self.folder, port=listener.getsockname()[1])

    def no_credits(self) -> Surroundings:
        bfl = self.stack.enter_context(provider())
        bfl.credits = refused(402, "Insufficient credits")
        return around(self.folder, backends="flux-api", bfl_api_key="some-key", bfl_base_url=bfl.api_url)

    def unreachable_cloud(self) -> Surroundings:
        url = f"http://127.0.0.1:{free_port()}"
        cloud = around(self.folder, backends="flux-api", bfl_api_key="some-key", bfl_base_url=url)
        return Surroundings.of(cloud.settings)

    def forgetful_redis(self) -> Surroundings:
        return around(self.folder, redis_url=self.redis_url)

    def full_disk(self) -> Surroundings:
        return around(self.folder, min_free_bytes=LARGE)

    def images_of_another_installation(self) -> Surroundings:
        here = around(self.folder, redis_url=self.redis_url, redis_prefix="troubled:")
        here.settings.output_dir.mkdir(parents=True, exist_ok=True)
        (here.settings.output_dir / MARK).write_text("another")
        return here

    def wrong_clock(self) -> Surroundings:
        return around(self.folder, outside={"https://api.example.com": ProbeResponse(200, "", skew_seconds=-400.0)})

    def refused_token(self) -> Surroundings:
        return around(self.folder, huggingface_token="hf_short")

    def open_doors(self) -> Surroundings:
        return around(self.folder, host="0.0.0.0")

    def planned(self, name: str, size: int) -> Path:
        """A model of which nothing but its plan is here."""
        folder = self.folder / "models" / name
        folder.mkdir(parents=True)
        DownloadPlan(commit="0", files=(PlannedFile(path="model.safetensors", size=size),)).write(folder)
        return folder


Scene = Callable[[Scenes], Surroundings]
SCENES: dict[str, Scene] = {
    "a job fails with `out-of-memory`, or its worker dies": Scenes.out_of_memory,
    "an image takes minutes": Scenes.slow,
    "the download of a model hangs": Scenes.hanging_download,
    "images are black, on Apple's GPU above all; jobs fail with `invalid-output`": Scenes.black_images,
    "a backend stays `loading` or `offline`": Scenes.still_loading,
    "`imagegen up` says that a port cannot be used": Scenes.taken_port,
    "402, `upstream-out-of-credits`": Scenes.no_credits,
    "503, `upstream-unavailable`": Scenes.unreachable_cloud,
    "503, `store-unavailable`; jobs are gone after a restart": Scenes.forgetful_redis,
    "507, `storage-full`": Scenes.full_disk,
    "images are not cleared away, though retention is set": Scenes.images_of_another_installation,
    "webhooks are refused as too old, image links lapse at once": Scenes.wrong_clock,
    "a model cannot be had, though its terms were accepted": Scenes.refused_token,
    "the service does not start on `SD_HOST=0.0.0.0`": Scenes.open_doors,
}


def test_every_row_of_the_table_is_tried() -> None:
    assert set(rows()) == set(SCENES)


@pytest.mark.parametrize("seen", SCENES)
def test_the_check_that_a_row_names_finds_it_and_says_what_to_do(seen: str, tmp_path: Path, redis_url: str) -> None:
    with ExitStack() as stack:
        here = SCENES[seen](Scenes(tmp_path, redis_url, stack))
        findings = [finding for check in rows()[seen] for finding in found(check, here)]

    troubles = [finding for finding in findings if finding.level is not Level.OK]
    assert troubles
    assert all(finding.remedy for finding in troubles)
