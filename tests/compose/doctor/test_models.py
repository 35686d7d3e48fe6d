"""The findings of `imagegen doctor` about models and where they come from."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from tests.compose.doctor.installations import (
    findings_of,
    installation,
    planned_model,
    the_finding_of,
)
from tests.worker.engines.bfl.provider import Reply, provider, refused
from tests.worker.models.conftest import reach
from worker.models.download_plans import INCOMPLETE_DIR, INCOMPLETE_SUFFIX

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
TOKEN = "hf_" + "a1B2" * 9


def test_models_are_missing_interrupted_downloading_or_complete(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model_id": "some/model", "safety_checker": False}
    missing = the_finding_of("models", installation(tmp_path, **settings))
    folder = planned_model(tmp_path / "models/some/model", 10)
    (folder / INCOMPLETE_DIR).mkdir(parents=True)
    (folder / INCOMPLETE_DIR / f"model{INCOMPLETE_SUFFIX}").write_bytes(b"12345")
    interrupted = the_finding_of("models", installation(tmp_path, **settings))
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    downloading = the_finding_of("models", installation(tmp_path, **settings))
    os.close(descriptor)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    complete = the_finding_of("models", installation(tmp_path, **settings))
    wrong = the_finding_of("models", installation(tmp_path, model_id="/no/such/folder", safety_checker=False))

    assert missing == ("warning", "some/model is not downloaded yet.")
    assert interrupted == ("warning", "some/model is incomplete (0.0 MB of 0.0 MB); its download was interrupted.")
    assert downloading == ("ok", "some/model is incomplete (0.0 MB of 0.0 MB); the download is running.")
    assert complete == ("ok", "some/model is complete.")
    assert wrong[0] == "problem"
    assert "/no/such/folder" in wrong[1]


def test_every_model_that_a_setting_names_is_looked_for(tmp_path: Path) -> None:
    _, *further = findings_of("models", installation(tmp_path, models="./nope,some/model"))

    assert [(finding.level, finding.detail.partition(",")[0]) for finding in further] == [
        ("problem", "SD_MODELS is ./nope"),
        ("warning", "some/model is not downloaded yet."),
    ]


def test_the_safety_checker_is_a_required_model(tmp_path: Path) -> None:
    details = [finding.detail for finding in findings_of("models", installation(tmp_path, model_id=SDXL))]

    assert details == [
        f"{SDXL} is not downloaded yet.",
        "CompVis/stable-diffusion-safety-checker is not downloaded yet.",
    ]


@pytest.mark.parametrize(
    ("token", "reply", "level"),
    [
        ("hf_short", Reply(), "problem"),
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
        assert [request.headers["authorization"] for request in hub.requests] == [f"Bearer {token}"] * (token == TOKEN)


@pytest.mark.parametrize(
    ("reply", "level", "part"),
    [
        (Reply(body={"credits": 123.5}), "ok", "123.5 credits are left"),
        (Reply(body={"credits": 3}), "warning", "only 3 credits"),
        (Reply(body={"credits": 0}), "problem", "402"),
        (Reply(body=["nonsense"]), "warning", "no readable number of credits"),
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
    assert [request.headers["x-key"] for request in bfl.requests] == ["some-key"]


@pytest.mark.parametrize(("egress_proxy", "warnings"), [(None, 1), ("http://127.0.0.1:1", 0)])
def test_a_proxy_for_the_api_alone_leaves_paid_images_unreachable(
    egress_proxy: str | None, warnings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    cloud: dict[str, Any] = {"backends": "flux-api", "bfl_api_key": "some-key", "bfl_base_url": "https://bfl.invalid"}

    findings = findings_of("bfl", installation(tmp_path, egress_proxy=egress_proxy, **cloud))

    assert [finding.level for finding in findings if "SD_EGRESS_PROXY" in finding.remedy] == ["warning"] * warnings


def test_a_missing_key_is_a_problem(tmp_path: Path) -> None:
    assert the_finding_of("bfl", installation(tmp_path, backends="flux-api"))[0] == "problem"


def test_broken_models_in_the_model_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for number in range(5):
        (tmp_path / "models" / f"old-{number}.ckpt").touch()

    findings = findings_of("models", installation(tmp_path, safety_checker=False))

    assert [(finding.level, finding.detail) for finding in findings[1:]] == [
        *(
            (
                "warning",
                f"The model old-{number} in SD_MODEL_DIR is broken. It is a pickle (.ckpt), which can run code and is "
                "never loaded; convert it to .safetensors.",
            )
            for number in range(3)
        ),
        ("warning", "2 more models in SD_MODEL_DIR are broken."),
    ]
