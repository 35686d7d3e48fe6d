"""The check named in each row of the troubleshooting table finds the trouble and offers a remedy."""

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

from compose.doctor.findings import Level
from compose.doctor.http_probe import ProbeResponse
from compose.doctor.installation import Installation
from tests.compose.doctor.installations import CPU, MPS, findings_of, installation, loading_worker, planned_model
from tests.stack import free_port
from tests.worker.engines.bfl.provider import provider, refused
from worker.housekeeper.ownership import MARK
from worker.models.download_plans import INCOMPLETE_DIR, INCOMPLETE_SUFFIX

OPERATIONS = Path(__file__).parents[3] / "docs/operations.md"
#: One model that is larger than any machine's memory, and a small one; nothing is downloaded.
LARGE, SMALL = 10**16, 10**6


def rows() -> dict[str, list[str]]:
    """The symptoms, and the checks named for each."""
    lines = OPERATIONS.read_text().splitlines()
    start = lines.index("| what you see | check | what to do |") + 2
    cells = [line.split("|") for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start:])]
    return {cell[1].strip(): re.findall(r"`(\w+)`", cell[2]) for cell in cells}


class Troubles:
    """Causes the trouble of each row."""

    def __init__(self, folder: Path, redis_url: str, stack: ExitStack) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.stack = stack

    def out_of_memory(self) -> Installation:
        planned_model(self.folder / "models/big/model", LARGE)
        return installation(self.folder, model_id="big/model", safety_checker=False)

    def slow(self) -> Installation:
        return installation(self.folder, probed_device=CPU, model_id="stabilityai/stable-diffusion-xl-base-1.0")

    def hanging_download(self) -> Installation:
        folder = planned_model(self.folder / "models/some/model", SMALL)
        (folder / INCOMPLETE_DIR).mkdir(parents=True)
        (folder / INCOMPLETE_DIR / f"model{INCOMPLETE_SUFFIX}").write_bytes(b"half")
        for file in folder.rglob("*"):
            os.utime(file, (time.time() - 600,) * 2)
        descriptor = os.open(folder, os.O_RDONLY)
        self.stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return installation(self.folder, model_id="some/model", safety_checker=False)

    def black_images(self) -> Installation:
        return installation(self.folder, probed_device=MPS, dtype="float16")

    def still_loading(self) -> Installation:
        self.stack.enter_context(loading_worker(self.redis_url, "troubled:"))
        return installation(self.folder, redis_url=self.redis_url, redis_prefix="troubled:")

    def taken_port(self) -> Installation:
        listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return installation(self.folder, port=listener.getsockname()[1])

    def no_credits(self) -> Installation:
        bfl = self.stack.enter_context(provider())
        bfl.credits = refused(402, "Insufficient credits")
        return installation(self.folder, backends="flux-api", bfl_api_key="some-key", bfl_base_url=bfl.api_url)

    def unreachable_cloud(self) -> Installation:
        url = f"http://127.0.0.1:{free_port()}"
        cloud = installation(self.folder, backends="flux-api", bfl_api_key="some-key", bfl_base_url=url)
        return Installation.of(cloud.settings)

    def forgetful_redis(self) -> Installation:
        return installation(self.folder, redis_url=self.redis_url)

    def full_disk(self) -> Installation:
        return installation(self.folder, min_free_bytes=LARGE)

    def images_of_another_installation(self) -> Installation:
        examined = installation(self.folder, redis_url=self.redis_url, redis_prefix="troubled:")
        examined.settings.output_dir.mkdir(parents=True, exist_ok=True)
        (examined.settings.output_dir / MARK).write_text("another")
        return examined

    def wrong_clock(self) -> Installation:
        return installation(
            self.folder, responses={"https://api.example.com": ProbeResponse(200, "", skew_seconds=-400.0)}
        )

    def refused_token(self) -> Installation:
        return installation(self.folder, huggingface_token="hf_short")

    def open_to_the_network(self) -> Installation:
        return installation(self.folder, host="0.0.0.0")


Trouble = Callable[[Troubles], Installation]
TROUBLES: dict[str, Trouble] = {
    "a job fails with `out-of-memory`, or its worker dies": Troubles.out_of_memory,
    "an image takes minutes": Troubles.slow,
    "the download of a model hangs": Troubles.hanging_download,
    "images are black, on Apple's GPU above all; jobs fail with `invalid-output`": Troubles.black_images,
    "a backend stays `loading` or `offline`": Troubles.still_loading,
    "`imagegen up` says that a port cannot be used": Troubles.taken_port,
    "402, `upstream-out-of-credits`": Troubles.no_credits,
    "503, `upstream-unavailable`": Troubles.unreachable_cloud,
    "503, `store-unavailable`; jobs are gone after a restart": Troubles.forgetful_redis,
    "507, `storage-full`": Troubles.full_disk,
    "images are not deleted, though retention is set": Troubles.images_of_another_installation,
    "webhooks are refused as too old, image links expire at once": Troubles.wrong_clock,
    "a model cannot be downloaded, though its terms were accepted": Troubles.refused_token,
    "the service does not start on `SD_HOST=0.0.0.0`": Troubles.open_to_the_network,
}


def test_every_row_of_the_table_is_tested() -> None:
    assert set(rows()) == set(TROUBLES)


@pytest.mark.parametrize("symptom", TROUBLES)
def test_the_named_check_finds_the_trouble_and_offers_a_remedy(symptom: str, tmp_path: Path, redis_url: str) -> None:
    with ExitStack() as stack:
        examined = TROUBLES[symptom](Troubles(tmp_path, redis_url, stack))
        findings = [finding for check in rows()[symptom] for finding in findings_of(check, examined)]

    bad = [finding for finding in findings if finding.level is not Level.OK]
    assert bad
    assert all(finding.remedy for finding in bad)
