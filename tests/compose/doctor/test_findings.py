"""What single checks of `imagegen doctor` make of what they see."""

import fcntl
import os
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from compose.doctor.asking import ProbeFailed, ProbeResponse, probe
from compose.doctor.checks import clock, redis, versions
from compose.doctor.findings import Level
from compose.doctor.surroundings import Surroundings
from compose.launcher.up import REDIS_URL_FILE
from shared.redis.store import Store, connect
from shared.storage.folder import FolderStore
from shared.storage.images import ImageStore
from shared.workers.devices import Device
from shared.workers.records import Download
from tests.compose.doctor.surroundings import CPU, CUDA, MPS, around, found, loading_worker
from tests.stack import free_port, valkey_server
from tests.worker.engines.bfl.provider import Reply, provider, refused
from tests.worker.models.conftest import reach
from worker.housekeeper.ownership import Ownership
from worker.models.download_plans import INCOMPLETE_DIR, INCOMPLETE_SUFFIX, DownloadPlan, PlannedFile

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
TOKEN = "hf_" + "a1B2" * 9


def only(check: str, here: Surroundings) -> tuple[str, str]:
    """Level and detail of the one finding."""
    (finding,) = found(check, here)
    assert bool(finding.remedy) == (finding.level is not Level.OK)
    return finding.level, finding.detail


def plan(folder: Path, size: int) -> Path:
    folder.mkdir(parents=True)
    file = PlannedFile(path="a.safetensors", size=size)
    DownloadPlan(commit="0", files=(file,)).write(folder)
    return folder


@pytest.mark.parametrize(
    ("device", "settings", "level", "part"),
    [
        (None, {}, "problem", "PyTorch is not installed"),
        (None, {"backends": "flux-api"}, "ok", "needs no device"),
        (CPU, {}, "ok", "enough for the starter model"),
        (CPU, {"model_id": SDXL}, "warning", "takes minutes"),
        (CPU.model_copy(update={"has_nvidia": True}), {}, "warning", "was built for CPUs"),
        (CPU.model_copy(update={"has_nvidia": True, "cuda_build": "13.0"}), {}, "warning", "cannot use it"),
        (CPU.model_copy(update={"has_nvidia": True}), {"device": "cpu"}, "ok", "computes on the CPU"),
        (CPU.model_copy(update={"kind": None, "problem": "no such device"}), {}, "problem", "no such device"),
        (CUDA, {"model_id": SDXL}, "ok", "computes on cuda (a GPU)"),
        (MPS, {"model_id": SDXL}, "ok", "computes on mps"),
    ],
)
def test_the_device(device: Device | None, settings: Mapping[str, str], level: str, part: str, tmp_path: Path) -> None:
    told = only("device", around(tmp_path, probed=device, **settings))

    assert told[0] == level
    assert part in told[1]


def test_a_device_that_is_asked_for_but_not_there(tmp_path: Path) -> None:
    settings = around(tmp_path).settings.model_copy(update={"device": "cuda:15"})

    level, detail = only("device", Surroundings.of(settings))

    assert level == "problem"
    assert "SD_DEVICE is cuda:15, but this machine has no such device" in detail


@pytest.mark.parametrize(
    ("device", "settings", "level"),
    [
        (CUDA, {}, "ok"),
        (CUDA, {"dtype": "float16"}, "ok"),
        (CPU, {"dtype": "float16"}, "warning"),
        (MPS, {"dtype": "float16"}, "warning"),
        (CUDA, {"dtype": "float16", "backends": "flux-local"}, "problem"),
        (CUDA.model_copy(update={"has_bfloat16": False}), {"dtype": "bfloat16"}, "warning"),
        (None, {"dtype": "float16"}, "ok"),
    ],
)
def test_the_precision(device: Device | None, settings: Mapping[str, str], level: str, tmp_path: Path) -> None:
    assert only("dtype", around(tmp_path, probed=device, **settings))[0] == level


@pytest.mark.parametrize(
    ("device", "size", "level"),
    [(CPU, 10**16, "problem"), (CUDA, 9 * 10**9, "warning"), (CUDA, 7_500_000_000, "warning"), (CUDA, 10**6, "ok")],
)
def test_the_memory(device: Device, size: int, level: str, tmp_path: Path) -> None:
    plan(tmp_path / "models/some/model", size)

    assert only("memory", around(tmp_path, probed=device, model_id="some/model", safety_checker=False))[0] == level


def test_models(tmp_path: Path) -> None:
    checker = {"safety_checker": False}
    absent = only("models", around(tmp_path, model_id="some/model", **checker))
    folder = plan(tmp_path / "models/some/model", 10)
    (folder / INCOMPLETE_DIR).mkdir(parents=True)
    (folder / INCOMPLETE_DIR / f"a{INCOMPLETE_SUFFIX}").write_bytes(b"12345")
    cut = only("models", around(tmp_path, model_id="some/model", **checker))
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    coming = only("models", around(tmp_path, model_id="some/model", **checker))
    os.close(descriptor)
    (folder / "model_index.json").write_text("{}")
    whole = only("models", around(tmp_path, model_id="some/model", **checker))
    wrong = only("models", around(tmp_path, model_id="/no/such/folder", **checker))

    assert absent == ("warning", "some/model is not downloaded yet.")
    assert cut == ("warning", "0.0 MB of 0.0 MB of some/model are there; the download was cut off.")
    assert coming == ("ok", "0.0 MB of 0.0 MB of some/model are there, and more is coming.")
    assert whole == ("ok", "some/model is complete.")
    assert wrong[0] == "problem"
    assert "/no/such/folder" in wrong[1]


def test_the_safety_checker_is_a_model_too(tmp_path: Path) -> None:
    details = [finding.detail for finding in found("models", around(tmp_path, model_id=SDXL))]

    assert details == [
        f"{SDXL} is not downloaded yet.",
        "CompVis/stable-diffusion-safety-checker is not downloaded yet.",
    ]


@pytest.mark.parametrize(
    ("reply", "level", "part"),
    [
        (Reply(body={"credits": 123.5}), "ok", "123.5 credits are left"),
        (Reply(body={"credits": 3}), "warning", "only 3 credits"),
        (Reply(body={"credits": 0}), "problem", "402"),
        (Reply(body=["nonsense"]), "warning", "no credits that can be read"),
        (refused(402), "problem", "402"),
        (refused(403, "Not authenticated"), "problem", "refuses SD_BFL_API_KEY (HTTP 403)"),
        (refused(422, "Invalid API key format"), "problem", "refuses SD_BFL_API_KEY (HTTP 422)"),
        (refused(503), "warning", "HTTP 503"),
        (Reply(status=302, headers={"location": "http://127.0.0.1:1/"}), "warning", "HTTP 302"),
        (Reply(hang_up=True), "warning", "could not be asked"),
    ],
)
def test_the_key_and_the_credits_of_black_forest_labs(reply: Reply, level: str, part: str, tmp_path: Path) -> None:
    with provider() as bfl:
        bfl.credits = reply
        told = only("bfl", around(tmp_path, backends="flux-api", bfl_api_key="some-key", bfl_base_url=bfl.api_url))

    assert told[0] == level
    assert part in told[1]
    assert [asked.headers["x-key"] for asked in bfl.asked] == ["some-key"]


def test_no_key_where_one_is_needed(tmp_path: Path) -> None:
    assert only("bfl", around(tmp_path, backends="flux-api"))[0] == "problem"


def test_only_what_is_needed_is_asked(tmp_path: Path) -> None:
    with provider() as bfl:
        idle = Surroundings.of(around(tmp_path, bfl_base_url=bfl.api_url).settings)
        assert only("outbound", idle) == ("ok", "Nothing that is configured needs the internet.")
        assert bfl.asked == []
        cloud = around(tmp_path, backends="flux-api", bfl_base_url=bfl.api_url).settings

        assert only("outbound", Surroundings.of(cloud)) == ("ok", f"{bfl.api_url} answers.")
        assert "x-key" not in bfl.asked[0].headers


def test_the_hub_is_asked_where_a_model_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    reach(url, monkeypatch)

    told = only("outbound", Surroundings.of(around(tmp_path, model_id="some/model").settings))

    assert told == ("problem", f"{url} cannot be reached: no connection.")


def test_an_answer_without_end_is_not_waited_for() -> None:
    with provider() as bfl:
        bfl.credits = Reply(raw=b"x" * 100_000)
        answer = probe(f"{bfl.api_url}/v1/credits")

    assert isinstance(answer, ProbeResponse)
    assert len(answer.text) == 65_536
    assert abs(answer.skew_seconds or 0) < 5


@pytest.mark.parametrize(
    ("token", "reply", "level"),
    [
        ("hf_short", Reply(), "problem"),
        ("a sentence", Reply(), "problem"),
        (TOKEN, Reply(), "ok"),
        (TOKEN, refused(401), "problem"),
        (TOKEN, refused(503), "warning"),
    ],
)
def test_the_token_of_hugging_face(
    token: str, reply: Reply, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider() as hub:
        hub.polls = [reply]
        reach(hub.api_url, monkeypatch)

        assert only("token", around(tmp_path, huggingface_token=token))[0] == level
        assert [asked.headers["authorization"] for asked in hub.asked] == [f"Bearer {token}"] * (token == TOKEN)


@pytest.mark.parametrize(
    ("options", "level", "part"),
    [
        (["--appendonly", "yes"], "ok", "append-only, without eviction"),
        ([], "warning", "accepted jobs are gone when it ends"),
        (["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"], "warning", "throws keys away"),
        (["--appendonly", "yes", "--maxmemory", "1mb"], "warning", "of its memory"),
    ],
)
def test_redis(options: list[str], level: str, part: str, tmp_path: Path) -> None:
    with valkey_server(tmp_path, *options) as url:
        told = only("redis", around(tmp_path, redis_url=url))

    assert told[0] == level
    assert part in told[1]


def test_redis_that_is_away(tmp_path: Path) -> None:
    url = f"redis://:5ecret@127.0.0.1:{free_port()}/3"

    level, detail = only("redis", around(tmp_path, redis_url=url))

    assert level == "problem"
    assert detail == f"The server at {url.partition('@')[2]} does not answer."


def test_redis_whose_certificate_nobody_vouches_for(tmp_path: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def refused() -> None:
        # The client tries twice.
        for _ in range(2):
            with suppress(OSError), context.wrap_socket(server.accept()[0], server_side=True):
                pass

    threading.Thread(target=refused, daemon=True).start()
    with server:
        (finding,) = found("redis", around(tmp_path, redis_url=f"rediss://127.0.0.1:{server.getsockname()[1]}/0"))

    assert "shows a certificate that is not trusted here" in finding.detail
    assert "SD_CA_FILE" in finding.remedy


def test_a_service_that_was_killed_says_how_it_comes_back(tmp_path: Path) -> None:
    """It could not say that its own Redis is gone."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / REDIS_URL_FILE).write_text("unix:///tmp/imagegen-gone/redis.sock")

    here = Surroundings.of(around(tmp_path).settings)
    (finding,) = found("redis", here)

    assert (finding.level, finding.detail) == ("problem", "The embedded server does not answer.")
    assert "`imagegen up` starts it again" in finding.remedy


@pytest.mark.parametrize(
    ("told", "name", "is_old"),
    [
        ({"redis_version": "6.0.16"}, "Redis 6.0.16", True),
        ({"redis_version": "6.2.0"}, "Redis 6.2.0", False),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.1"}, "Valkey 9.0.1", False),
        ({}, "Redis ?", True),
    ],
)
def test_versions_of_redis(told: dict[str, Any], name: str, is_old: bool) -> None:
    assert (redis.name_of(told), redis.version_of(told) < redis.OLDEST) == (name, is_old)


@pytest.mark.parametrize(("ahead", "level"), [(0.4, "ok"), (-20, "warning"), (299, "warning"), (-301, "problem")])
def test_clocks(ahead: float, level: str) -> None:
    finding = clock.judged("Redis", ahead)

    assert finding.level == level
    assert ("behind" in finding.detail) == (ahead < -10)


def test_servers_that_do_not_answer_tell_no_time(tmp_path: Path) -> None:
    here = around(
        tmp_path,
        outside={"https://a.example": ProbeFailed("no connection"), "https://b.example": ProbeResponse(200, "", None)},
    )

    assert only("clock", here) == ("ok", "There is no other clock to compare with.")


def test_a_worker_that_downloads_says_how_far_it_is(tmp_path: Path, redis_url: str) -> None:
    download = Download(model="some/model", bytes_done=2 * 10**9, bytes_total=7 * 10**9)
    with loading_worker(redis_url, "d:", download):
        told = only("workers", around(tmp_path, redis_url=redis_url, redis_prefix="d:"))

    assert told == ("warning", "sd is still loading: 2.0 GB of 7.0 GB of some/model are there.")


def test_an_engine_that_nobody_serves_is_told(tmp_path: Path, redis_url: str) -> None:
    told = only("workers", around(tmp_path, redis_url=redis_url, redis_prefix="nobody:"))

    assert told == ("problem", "No worker serves sd; 0 jobs wait for one.")


def test_folders_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    levels = {
        finding.detail: finding.level for finding in found("disk", around(tmp_path, output_dir=tmp_path / "file/x"))
    }

    assert levels[f"SD_OUTPUT_DIR={tmp_path}/file/x cannot be written: Not a directory."] == "problem"


def test_who_has_the_port_is_named(tmp_path: Path) -> None:
    with provider() as other:
        findings = found("ports", around(tmp_path, port=other.api.server_port, flower_port=0))

    assert findings[0].level == "problem"
    assert f"process {os.getpid()}" in findings[0].detail
    assert "SD_PORT=" in findings[0].remedy


def test_packages_that_are_missing_or_too_old_are_named() -> None:
    requirements = ["redis>=999", "celery>=5", "no-such-package>=1", 'no-such-extra>=1; extra == "up"']

    assert [name.split()[0] for name in versions.unmet(requirements)] == ["redis", "no-such-package"]


def test_a_folder_of_another_installation_is_told_of(redis_url: str, tmp_path: Path) -> None:
    def told(prefix: str) -> list[str]:
        here = around(tmp_path, redis_url=redis_url, redis_prefix=prefix)
        return [finding.detail for finding in found("disk", here) if finding.level is Level.WARNING]

    images = ImageStore(FolderStore(tmp_path / "outputs"))
    assert told("one:") == told("two:") == []
    assert Ownership.of(Store(connect(redis_url)), "one:", images).claim() is None

    assert told("one:") == []
    assert told("two:") == [f"SD_OUTPUT_DIR={tmp_path / 'outputs'} is marked as another installation's."]
