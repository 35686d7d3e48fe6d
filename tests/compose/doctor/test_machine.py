"""The findings of `imagegen doctor` about the machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compose.doctor.checks.machine import clock, versions
from compose.doctor.http_probe import ProbeFailed, ProbeResponse, probe
from compose.doctor.installation import Installation
from shared.workers.devices import Device
from tests.compose.doctor.installations import CPU, CUDA, MPS, installation, planned_model, the_finding_of
from tests.stack import free_port
from tests.worker.engines.bfl.provider import Reply, provider
from tests.worker.models.conftest import reach

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


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
    device: Device | None, settings: Mapping[str, Any], level: str, part: str, tmp_path: Path
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
    device: Device | None, settings: Mapping[str, Any], level: str, tmp_path: Path
) -> None:
    assert the_finding_of("dtype", installation(tmp_path, probed_device=device, **settings))[0] == level


@pytest.mark.parametrize(
    ("device", "size", "level"),
    [(CPU, 10**16, "problem"), (CUDA, 9 * 10**9, "warning"), (CUDA, 7_500_000_000, "warning"), (CUDA, 10**6, "ok")],
)
def test_weights_are_compared_with_the_memory(device: Device, size: int, level: str, tmp_path: Path) -> None:
    planned_model(tmp_path / "models/some/model", size)

    assert (
        the_finding_of(
            "memory", installation(tmp_path, probed_device=device, model_id="some/model", safety_checker=False)
        )[0]
        == level
    )


def test_only_required_servers_are_probed(tmp_path: Path) -> None:
    with provider() as bfl:
        idle = Installation.of(installation(tmp_path, bfl_base_url=bfl.api_url).settings)
        assert the_finding_of("outbound", idle) == ("ok", "The configured backends need no internet access.")
        assert bfl.requests == []
        cloud = installation(tmp_path, backends="flux-api", bfl_base_url=bfl.api_url).settings

        assert the_finding_of("outbound", Installation.of(cloud)) == ("ok", f"{bfl.api_url} responds.")
        assert "x-key" not in bfl.requests[0].headers


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


def test_missing_and_old_packages_are_named() -> None:
    requirements = ["redis>=999", "celery>=5", "no-such-package>=1", 'no-such-extra>=1; extra == "up"']

    assert [name.split()[0] for name in versions.unsatisfied_requirements(requirements)] == ["redis", "no-such-package"]
