"""The findings of single checks of `imagegen doctor`."""

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

from compose.doctor.checks.machine import clock, versions
from compose.doctor.checks.service import redis
from compose.doctor.findings import Level
from compose.doctor.http_probe import ProbeFailed, ProbeResponse, probe
from compose.doctor.installation import Installation
from compose.launcher.data_folder import REDIS_URL
from shared.redis.store import Store, connect
from shared.storage.folder import FolderStore
from shared.storage.images import ImageStore
from shared.workers.devices import Device
from shared.workers.records import Download
from tests.compose.doctor.installations import CPU, CUDA, MPS, findings_of, installation, loading_worker
from tests.stack import free_port, valkey_server
from tests.worker.engines.bfl.provider import Reply, provider, refused
from tests.worker.models.conftest import reach
from worker.housekeeper.ownership import Ownership
from worker.models.download_plans import INCOMPLETE_DIR, INCOMPLETE_SUFFIX, DownloadPlan, PlannedFile

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
TOKEN = "hf_" + "a1B2" * 9


def the_finding_of(check: str, examined: Installation) -> tuple[str, str]:
    """Level and detail of the only finding; warnings and problems have a remedy."""
    (finding,) = findings_of(check, examined)
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
def test_the_device_is_judged_by_what_pytorch_can_use(
    device: Device | None, settings: Mapping[str, str], level: str, part: str, tmp_path: Path
) -> None:
    result = the_finding_of("device", installation(tmp_path, probed_device=device, **settings))

    assert result[0] == level
    assert part in result[1]


def test_a_device_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    settings = installation(tmp_path).settings.model_copy(update={"device": "cuda:15"})

    level, detail = the_finding_of("device", Installation.of(settings))

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
def test_the_precision_suits_device_and_backends(
    device: Device | None, settings: Mapping[str, str], level: str, tmp_path: Path
) -> None:
    assert the_finding_of("dtype", installation(tmp_path, probed_device=device, **settings))[0] == level


@pytest.mark.parametrize(
    ("device", "size", "level"),
    [(CPU, 10**16, "problem"), (CUDA, 9 * 10**9, "warning"), (CUDA, 7_500_000_000, "warning"), (CUDA, 10**6, "ok")],
)
def test_weights_are_compared_with_the_memory(device: Device, size: int, level: str, tmp_path: Path) -> None:
    plan(tmp_path / "models/some/model", size)

    assert (
        the_finding_of(
            "memory", installation(tmp_path, probed_device=device, model_id="some/model", safety_checker=False)
        )[0]
        == level
    )


def test_models_are_missing_interrupted_downloading_or_complete(tmp_path: Path) -> None:
    checker = {"safety_checker": False}
    absent = the_finding_of("models", installation(tmp_path, model_id="some/model", **checker))
    folder = plan(tmp_path / "models/some/model", 10)
    (folder / INCOMPLETE_DIR).mkdir(parents=True)
    (folder / INCOMPLETE_DIR / f"a{INCOMPLETE_SUFFIX}").write_bytes(b"12345")
    cut = the_finding_of("models", installation(tmp_path, model_id="some/model", **checker))
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    coming = the_finding_of("models", installation(tmp_path, model_id="some/model", **checker))
    os.close(descriptor)
    (folder / "model_index.json").write_text("{}")
    whole = the_finding_of("models", installation(tmp_path, model_id="some/model", **checker))
    wrong = the_finding_of("models", installation(tmp_path, model_id="/no/such/folder", **checker))

    assert absent == ("warning", "some/model is not downloaded yet.")
    assert cut == ("warning", "some/model is incomplete (0.0 MB of 0.0 MB); its download was interrupted.")
    assert coming == ("ok", "some/model is incomplete (0.0 MB of 0.0 MB); the download is running.")
    assert whole == ("ok", "some/model is complete.")
    assert wrong[0] == "problem"
    assert "/no/such/folder" in wrong[1]


def test_the_safety_checker_is_a_required_model(tmp_path: Path) -> None:
    details = [finding.detail for finding in findings_of("models", installation(tmp_path, model_id=SDXL))]

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
        (Reply(body=["nonsense"]), "warning", "no format_bytes credits"),
        (refused(402), "problem", "402"),
        (refused(403, "Not authenticated"), "problem", "refuses SD_BFL_API_KEY (HTTP 403)"),
        (refused(422, "Invalid API key format"), "problem", "refuses SD_BFL_API_KEY (HTTP 422)"),
        (refused(503), "warning", "HTTP 503"),
        (Reply(status=302, headers={"location": "http://127.0.0.1:1/"}), "warning", "HTTP 302"),
        (Reply(hang_up=True), "warning", "credits at Black Forest Labs are unknown"),
    ],
)
def test_the_key_and_the_credits_at_black_forest_labs(reply: Reply, level: str, part: str, tmp_path: Path) -> None:
    with provider() as bfl:
        bfl.credits = reply
        result = the_finding_of(
            "bfl", installation(tmp_path, backends="flux-api", bfl_api_key="some-key", bfl_base_url=bfl.api_url)
        )

    assert result[0] == level
    assert part in result[1]
    assert [asked.headers["x-key"] for asked in bfl.asked] == ["some-key"]


def test_a_missing_key_is_a_problem(tmp_path: Path) -> None:
    assert the_finding_of("bfl", installation(tmp_path, backends="flux-api"))[0] == "problem"


def test_only_required_servers_are_probed(tmp_path: Path) -> None:
    with provider() as bfl:
        idle = Installation.of(installation(tmp_path, bfl_base_url=bfl.api_url).settings)
        assert the_finding_of("outbound", idle) == ("ok", "The configured backends need no internet access.")
        assert bfl.asked == []
        cloud = installation(tmp_path, backends="flux-api", bfl_base_url=bfl.api_url).settings

        assert the_finding_of("outbound", Installation.of(cloud)) == ("ok", f"{bfl.api_url} responds.")
        assert "x-key" not in bfl.asked[0].headers


def test_the_hub_is_probed_when_a_model_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    reach(url, monkeypatch)

    result = the_finding_of("outbound", Installation.of(installation(tmp_path, model_id="some/model").settings))

    assert result == ("problem", f"{url} is unreachable: no connection.")


def test_a_probe_reads_no_more_than_64_kb() -> None:
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
def test_the_hugging_face_token_is_verified_with_the_hub(
    token: str, reply: Reply, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider() as hub:
        hub.polls = [reply]
        reach(hub.api_url, monkeypatch)

        assert the_finding_of("token", installation(tmp_path, huggingface_token=token))[0] == level
        assert [asked.headers["authorization"] for asked in hub.asked] == [f"Bearer {token}"] * (token == TOKEN)


@pytest.mark.parametrize(
    ("options", "level", "part"),
    [
        (["--appendonly", "yes"], "ok", "append-only, without eviction"),
        ([], "warning", "a restart loses accepted jobs"),
        (["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"], "warning", "evicts keys"),
        (["--appendonly", "yes", "--maxmemory", "1mb"], "warning", "of its memory"),
    ],
)
def test_the_configuration_of_redis(options: list[str], level: str, part: str, tmp_path: Path) -> None:
    with valkey_server(tmp_path, *options) as url:
        result = the_finding_of("redis", installation(tmp_path, redis_url=url))

    assert result[0] == level
    assert part in result[1]


def test_an_unreachable_redis_is_a_problem(tmp_path: Path) -> None:
    url = f"redis://:5ecret@127.0.0.1:{free_port()}/3"

    level, detail = the_finding_of("redis", installation(tmp_path, redis_url=url))

    assert level == "problem"
    assert detail == f"The server at {url.partition('@')[2]} does not respond."


def test_an_untrusted_certificate_of_redis_is_named(tmp_path: Path) -> None:
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
        (finding,) = findings_of(
            "redis", installation(tmp_path, redis_url=f"rediss://127.0.0.1:{server.getsockname()[1]}/0")
        )

    assert "has a certificate that is not trusted" in finding.detail
    assert "SD_CA_FILE" in finding.remedy


def test_a_killed_service_is_told_apart_from_a_stopped_one(tmp_path: Path) -> None:
    """It left the address of its Redis behind."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / REDIS_URL).write_text("unix:///tmp/imagegen-gone/redis.sock")

    examined = Installation.of(installation(tmp_path).settings)
    (finding,) = findings_of("redis", examined)

    assert (finding.level, finding.detail) == ("problem", "The embedded server does not respond.")
    assert "`imagegen up` starts it again" in finding.remedy


@pytest.mark.parametrize(
    ("info", "name", "is_old"),
    [
        ({"redis_version": "6.0.16"}, "Redis 6.0.16", True),
        ({"redis_version": "6.2.0"}, "Redis 6.2.0", False),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.1"}, "Valkey 9.0.1", False),
        ({}, "Redis ?", True),
    ],
)
def test_the_version_of_redis_and_valkey(info: dict[str, Any], name: str, is_old: bool) -> None:
    assert (redis.name_of(info), redis.version_of(info) < redis.OLDEST) == (name, is_old)


@pytest.mark.parametrize(("ahead", "level"), [(0.4, "ok"), (-20, "warning"), (299, "warning"), (-301, "problem")])
def test_clock_skew_is_a_warning_from_10_s_and_a_problem_from_300_s(ahead: float, level: str) -> None:
    finding = clock.check_skew("Redis", ahead)

    assert finding.level == level
    assert ("behind" in finding.detail) == (ahead < -10)


def test_servers_without_a_date_are_not_compared(tmp_path: Path) -> None:
    examined = installation(
        tmp_path,
        responses={
            "https://a.example": ProbeFailed("no connection"),
            "https://b.example": ProbeResponse(200, "", None),
        },
    )

    assert the_finding_of("clock", examined) == ("ok", "There is no other clock to compare with.")


def test_a_downloading_worker_reports_its_progress(tmp_path: Path, redis_url: str) -> None:
    download = Download(model="some/model", bytes_done=2 * 10**9, bytes_total=7 * 10**9)
    with loading_worker(redis_url, "d:", download):
        result = the_finding_of("workers", installation(tmp_path, redis_url=redis_url, redis_prefix="d:"))

    assert result == ("warning", "sd is downloading some/model: 2.0 GB of 7.0 GB.")


def test_a_backend_without_workers_is_a_problem(tmp_path: Path, redis_url: str) -> None:
    result = the_finding_of("workers", installation(tmp_path, redis_url=redis_url, redis_prefix="nobody:"))

    assert result == ("problem", "No worker serves sd; jobs queued: 0.")


def test_a_read_only_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    levels = {
        finding.detail: finding.level
        for finding in findings_of("disk", installation(tmp_path, output_dir=tmp_path / "file/x"))
    }

    assert levels[f"SD_OUTPUT_DIR={tmp_path}/file/x is not writable: Not a directory."] == "problem"


def test_the_process_that_uses_the_port_is_named(tmp_path: Path) -> None:
    with provider() as other:
        findings = findings_of("ports", installation(tmp_path, port=other.api.server_port, flower_port=0))

    assert findings[0].level == "problem"
    assert f"(process {os.getpid()}) uses it" in findings[0].detail
    assert "SD_PORT=" in findings[0].remedy


def test_missing_and_old_packages_are_named() -> None:
    requirements = ["redis>=999", "celery>=5", "no-such-package>=1", 'no-such-extra>=1; extra == "up"']

    assert [name.split()[0] for name in versions.unsatisfied_requirements(requirements)] == ["redis", "no-such-package"]


def test_images_of_another_installation_are_a_warning(redis_url: str, tmp_path: Path) -> None:
    def warnings(prefix: str) -> list[str]:
        examined = installation(tmp_path, redis_url=redis_url, redis_prefix=prefix)
        return [finding.detail for finding in findings_of("disk", examined) if finding.level is Level.WARNING]

    images = ImageStore(FolderStore(tmp_path / "outputs"))
    assert warnings("one:") == warnings("two:") == []
    assert Ownership.of(Store(connect(redis_url)), "one:", images).claim() is None

    assert warnings("one:") == []
    assert warnings("two:") == [f"SD_OUTPUT_DIR={tmp_path / 'outputs'} is marked as another installation's."]
