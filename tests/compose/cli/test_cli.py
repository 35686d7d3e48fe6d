import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from compose.launcher.data_folder import REDIS_URL
from tests.api.images import encoded, half_mask, scene
from tests.compose.conftest import Launched
from tests.stack import free_port
from tests.support.polling import wait_until
from tests.support.process import Process
from tests.worker.images.image_checks import pixels


@pytest.mark.parametrize(("ending", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_generate_saves_the_image_in_the_format_of_the_file_name(service: Launched, ending: str, kind: str) -> None:
    command = service.run("generate", "a prompt", "-o", f"out.{ending}", "--seed", "7", "--width", "96")

    assert command.exit_code == 0
    assert "96x64" in command.output
    assert "seed 7" in command.output
    with Image.open(service.folder / f"out.{ending}") as image:
        assert (image.format, image.size) == (kind, (96, 64))


def test_generate_says_what_is_wrong_with_a_request(service: Launched) -> None:
    one = service.run("generate", "a prompt", "--width", "5000")
    two = service.run("generate", "a prompt", "--width", "99999", "--steps", "9999")

    assert (one.exit_code, two.exit_code) == (1, 1)
    assert "width must be between 16 and 4096" in one.output
    assert one.output.count("width") == 1
    assert two.output.count("\n  /") == 2


def test_ctrl_c_cancels_the_job_of_generate(service: Launched) -> None:
    def jobs(state: str) -> list[str]:
        listed = requests.get(f"{service.url}/api/jobs", {"state": state, "q": "interrupted"}, timeout=10).json()
        return [job["id"] for job in listed["jobs"]]

    # The only worker is busy, so the job of `generate` waits.
    busy = {"prompt": "x", "metadata": {"simulate": {"seconds": 60}}}
    held = requests.post(f"{service.url}/api/jobs", json=busy, timeout=10).json()["links"]["self"]
    command = service.cli("generate", "interrupted")
    wait_until(lambda: jobs("queued") != [])

    command.send(signal.SIGINT)

    assert command.wait() == 130
    assert command.output.split() == ["The", "job", "was", "cancelled."]
    assert len(jobs("cancelled")) == 1
    requests.delete(service.url + held, timeout=10)


def test_generate_without_a_service_says_how_to_start_it(service: Launched) -> None:
    command = service.run("generate", "a prompt", "--url", f"http://127.0.0.1:{free_port()}")

    assert command.exit_code == 1
    assert "imagegen up" in command.output
    assert "Traceback" not in command.output


def test_generate_refuses_an_unknown_file_extension(service: Launched) -> None:
    command = service.run("generate", "a prompt", "-o", "out.gif")

    assert command.exit_code == 1
    assert not (service.folder / "out.gif").exists()


def test_generate_edits_an_image_within_a_mask(service: Launched) -> None:
    (service.folder / "in.png").write_bytes(encoded(scene()))
    (service.folder / "mask.png").write_bytes(encoded(half_mask()))
    images = ("--image", "in.png", "--mask", "mask.png", "--strength", "1", "--backend", "null")

    command = service.run("generate", "a prompt", "-o", "changed.png", *images)

    assert command.exit_code == 0
    before, after = np.asarray(scene()), pixels((service.folder / "changed.png").read_bytes())
    assert (after[:, :48] == before[:, :48]).all()
    assert (after != before).any()


def test_generate_names_the_image_that_cannot_be_read(service: Launched) -> None:
    command = service.run("generate", "a prompt", "--image", "nowhere.png")

    assert command.exit_code == 1
    assert "nowhere.png cannot be read: No such file or directory." in command.output


def test_prune_removes_old_jobs_and_prints_how_many(service: Launched) -> None:
    service.generate()

    counted, kept = service.run("prune", "--older-than", "0h", "--dry-run"), service.run("prune", "--older-than", "1w")

    assert (counted.exit_code, kept.exit_code) == (0, 0)
    assert "Would remove" in counted.output
    assert "Removed 0 jobs and 0 files" in kept.output
    assert service.run("prune", "--older-than", "0h").exit_code == 0
    assert not list((service.folder / "outputs").rglob("*.png"))


def test_prune_keeps_images_of_another_installation(service: Launched) -> None:
    made = service.generate().json()
    command = [sys.executable, "-m", "compose.cli.app", "prune", "--older-than", "0h"]
    stranger = Process(command, service.folder, {**service.settings, "SD_REDIS_PREFIX": "stranger:"})

    assert stranger.wait() == 1
    message = " ".join(stranger.output.split())
    assert "Nothing is deleted there; jobs go on." in message
    assert "imagegen prune --take-over" in message
    assert [path.stem for path in (service.folder / "outputs").rglob("*.png")] == [f"{made['id']}-0"]


def test_prune_shows_how_to_write_an_age(service: Launched) -> None:
    command = service.run("prune", "--older-than", "tomorrow")

    assert command.exit_code == 1
    assert "7d" in command.output


def test_prune_without_a_service_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    # One that was killed has left it.
    (tmp_path / "data" / REDIS_URL).write_text("unix:///tmp/imagegen-gone/redis.sock")
    command = Process([sys.executable, "-m", "compose.cli.app", "prune", "--older-than", "7d"], tmp_path)

    assert command.wait() == 1
    assert "imagegen up" in command.output
