"""The package fal_client, which knows nothing but https, behind a proxy that ends TLS."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.api.protocols import tls_proxy
from tests.shared.webhooks.receiver import Receiver, receiving
from tests.stack import Stack

#: Reads its environment when it is imported, so each test is a process.
_PRELUDE = "import json, fal_client\ndef show(value): print(json.dumps(value))\n"


class FalProgram:
    """Runs programs that use the package."""

    def __init__(self, stack: Stack, receiver: Receiver, environment: dict[str, str]) -> None:
        self.stack = stack
        self.receiver = receiver
        self._environment = environment

    def run(self, code: str) -> list[Any]:
        """What the program shows."""
        ended = subprocess.run(
            [sys.executable, "-c", _PRELUDE + code],
            env=os.environ | self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.fixture(scope="module")
def fal(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FalProgram]:
    folder = tmp_path_factory.mktemp("fal")
    with tls_proxy.listening() as listener, receiving() as receiver:
        host = f"localhost:{listener.getsockname()[1]}"
        settings = {"SD_PUBLIC_URL": f"https://{host}", "SD_WEBHOOK_ALLOW": receiver.origin}
        with Stack(redis_url, folder, SD_BACKENDS="null", **settings) as stack:
            stack.start_worker("null")
            stack.start_housekeeper()
            api = urlsplit(stack.start_api().url)
            certificate = tls_proxy.serve(listener, (api.hostname or "", api.port or 0), folder)
            environment = {
                "FAL_KEY": "none",
                "FAL_QUEUE_RUN_HOST": f"{host}/fal",
                "FAL_RUN_HOST": f"{host}/fal/run",
                "SSL_CERT_FILE": str(certificate),
                "RECEIVER": receiver.url,
            }
            yield FalProgram(stack, receiver, environment)


SLOW = {"prompt": "x", "seed": 7, "metadata": {"simulate": {"seconds": 1.5}}}


def test_run_returns_the_images(fal: FalProgram) -> None:
    (result,) = fal.run("show(fal_client.run('imagegen/null', arguments={'prompt': 'x', 'num_images': 2, 'seed': 5}))")

    assert (result["seed"], result["prompt"], len(result["images"])) == (5, "x", 2)
    assert result["has_nsfw_concepts"] == [False, False]
    assert result["images"][0]["url"].startswith("https://")


def test_a_request_is_followed_through_the_queue_to_its_images(fal: FalProgram) -> None:
    kinds, result = fal.run(
        f"handle = fal_client.submit('imagegen/null', arguments={SLOW!r})\n"
        "kinds = [type(event).__name__ for event in handle.iter_events(with_logs=True, interval=0.1)]\n"
        "show(kinds); show(handle.get())"
    )

    assert kinds[-1] == "Completed"
    assert set(kinds) <= {"Queued", "InProgress", "Completed"}
    assert "InProgress" in kinds
    job_id = result["images"][0]["url"].split("/jobs/")[1].split("/")[0]
    job = requests.get(f"{fal.stack.api.url}/api/jobs/{job_id}", timeout=30).json()
    assert (job["origin"], job["images"][0]["seed"]) == ("fal", 7)


def test_a_request_can_be_cancelled(fal: FalProgram) -> None:
    (status, message) = fal.run(
        "handle = fal_client.submit('imagegen/null', "
        "arguments={'prompt': 'x', 'metadata': {'simulate': {'seconds': 30}}})\n"
        "handle.cancel()\n"
        "*_, last = handle.iter_events(interval=0.1)\n"
        "show(last.error_type)\n"
        "try:\n    handle.get()\nexcept fal_client.FalClientHTTPError as error:\n    show(str(error))"
    )

    assert status == "cancelled"
    assert "cancelled" in message


def test_sizes_and_images_have_the_names_of_fal(fal: FalProgram) -> None:
    (result,) = fal.run(
        "show(fal_client.run('imagegen/null', arguments={'prompt': 'x', 'image_size': 'landscape_4_3', "
        "'sync_mode': True, 'acceleration': 'high'}))"
    )

    assert (result["images"][0]["width"], result["images"][0]["height"]) == (1024, 768)
    assert {"sync_mode", "acceleration"} <= {warning.split()[0] for warning in result["warnings"]}


@pytest.mark.parametrize(
    ("application", "arguments", "message"),
    [
        ("imagegen/null", {"prompt": ""}, "prompt"),
        ("imagegen/null", {"prompt": "x", "image_size": "huge"}, "image_size must have width and height"),
        ("imagegen/nul", {"prompt": "x"}, "perhaps you mean null"),
        ("imagegen/null", {"prompt": "x", "image_url": "https://localhost/x.png"}, "image"),
    ],
)
def test_a_wrong_request_is_explained(
    fal: FalProgram, application: str, arguments: dict[str, Any], message: str
) -> None:
    (shown,) = fal.run(
        f"try:\n    fal_client.submit({application!r}, arguments={arguments!r})\n"
        "except fal_client.FalClientHTTPError as error:\n    show(str(error))"
    )

    assert message in shown


def test_the_result_is_posted_to_a_webhook(fal: FalProgram) -> None:
    fal.run(
        "import os\nhandle = fal_client.submit('imagegen/null', arguments={'prompt': 'x', 'seed': 3}, "
        "webhook_url=os.environ['RECEIVER'])\nshow(handle.request_id)"
    )

    body = json.loads(fal.receiver.next().body)
    assert (body["status"], body["payload"]["seed"]) == ("OK", 3)
