"""The findings of `imagegen doctor` about the service: Redis, workers, disks and ports."""

import os
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from compose.doctor.checks.service import redis
from compose.doctor.findings import Level
from compose.doctor.installation import Installation
from compose.launcher.data_folder import REDIS_URL
from shared.redis.store import Store, connect
from shared.storage.folder import FolderStore
from shared.storage.images import ImageStore
from shared.workers.records import Download
from tests.compose.doctor.installations import findings_of, installation, loading_worker, the_finding_of
from tests.stack import free_port, valkey_server
from tests.worker.engines.bfl.provider import provider
from worker.housekeeper.ownership import Ownership


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


@pytest.mark.parametrize("rule", ["-time", "-eval", "-brpop", "resetchannels", "resetkeys"])
def test_a_redis_user_with_too_few_permissions_is_a_problem(rule: str, redis_url: str, tmp_path: Path) -> None:
    with connect(redis_url) as client:
        client.execute_command("ACL", "SETUSER", rule, "reset", "on", ">pw", "~*", "&*", "+@all", rule)
    url = redis_url.replace("unix://", f"unix://{rule}:pw@")

    finding = findings_of("redis", installation(tmp_path, redis_url=url))[0]

    assert finding.level == "problem"
    assert "denies its user what the service needs: " in finding.detail
    assert "&*" in finding.remedy


def test_settings_that_are_valid_but_hardly_meant_are_warnings(tmp_path: Path) -> None:
    """The start warns of the same. The default folders of LoRAs and embeddings need not exist."""
    folders: dict[str, Any] = {"model_dir": tmp_path, "lora_dir": tmp_path / "lroas"}
    examined = installation(tmp_path, backends="null", default_backend="sd", **folders)

    assert [finding.detail for finding in findings_of("settings", examined) if finding.level is Level.WARNING] == [
        f"SD_LORA_DIR={tmp_path / 'lroas'} is not a folder.",
        "SD_DEFAULT_BACKEND=sd is not in SD_BACKENDS, and requests without a backend fail unless another machine "
        "serves it.",
    ]


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


def test_images_of_another_installation_are_a_warning(redis_url: str, tmp_path: Path) -> None:
    def warnings(prefix: str) -> list[str]:
        examined = installation(tmp_path, redis_url=redis_url, redis_prefix=prefix)
        return [finding.detail for finding in findings_of("disk", examined) if finding.level is Level.WARNING]

    images = ImageStore(FolderStore(tmp_path / "outputs"))
    assert warnings("one:") == warnings("two:") == []
    assert Ownership.of(Store(connect(redis_url)), "one:", images).claim() is None

    assert warnings("one:") == []
    assert warnings("two:") == [f"SD_OUTPUT_DIR={tmp_path / 'outputs'} is marked as another installation's."]


def test_the_process_that_uses_the_port_is_named(tmp_path: Path) -> None:
    with provider() as other:
        findings = findings_of("ports", installation(tmp_path, port=other.api.server_port, flower_port=0))

    assert findings[0].level == "problem"
    assert f"(process {os.getpid()}) uses it" in findings[0].detail
    assert "SD_PORT=" in findings[0].remedy
