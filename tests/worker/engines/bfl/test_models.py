"""Cloud models: their limits are checked before a request costs money, and published in the schema."""

from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigurationError, InvalidRequest
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend
from shared.models import bfl
from shared.models.capabilities import RequestLimits
from shared.models.request_schema import request_schema
from shared.settings.api import ApiSettings
from shared.settings.loading import load
from shared.settings.worker import WorkerSettings
from tests.worker.engines.bfl.provider import KEY

LIMITS = RequestLimits(max_pixels=4_194_304, max_images=4, max_pixel_steps=10**9)
CLOUD = bfl.capabilities("flux-2-pro-preview")


def refused(**fields: Any) -> list[str]:
    try:
        CLOUD.check(GenerationRequest.model_validate({"prompt": "x", **fields}), LIMITS)
    except InvalidRequest as error:
        return [field.pointer for field in error.errors]
    return []


FLEX, DEV, PRO, ULTRA = "flux-2-flex", "flux-dev", "flux-pro-1.1", "flux-pro-1.1-ultra"


@pytest.mark.parametrize(
    ("fields", "pointers"),
    [
        ({}, []),
        ({"bfl_model": "flux-9"}, ["/bfl_model"]),
        ({"width": 64, "height": 64}, []),
        ({"width": 48, "height": 1000}, ["/width", "/height"]),
        ({"width": 2000, "height": 2000}, []),
        ({"width": 2048, "height": 2048}, ["/width"]),
        ({"num_inference_steps": 150}, []),
        ({"bfl_model": FLEX, "num_inference_steps": 50, "guidance_scale": 10}, []),
        ({"bfl_model": FLEX, "num_inference_steps": 51}, ["/num_inference_steps"]),
        ({"bfl_model": FLEX, "guidance_scale": 1.4}, ["/guidance_scale"]),
        ({"bfl_model": DEV, "guidance_scale": 5.1}, ["/guidance_scale"]),
        ({"bfl_model": PRO, "width": 1440, "height": 256}, []),
        ({"bfl_model": PRO, "width": 1456, "height": 240}, ["/width", "/height"]),
        ({"bfl_model": PRO, "width": 1040}, ["/width"]),
        ({"bfl_model": ULTRA, "width": 333, "height": 777}, []),
        ({"bfl_model": ULTRA, "width": 300, "height": 701}, ["/width"]),
        ({"num_images": 5}, ["/num_images"]),
    ],
    ids=str,
)
def test_unsupported_requests_are_refused_by_field(fields: dict[str, Any], pointers: list[str]) -> None:
    assert refused(**fields) == pointers


@pytest.mark.parametrize("model", bfl.MODELS)
def test_every_model_is_documented(model: str) -> None:
    assert f"`{model}`" in (Path(__file__).parents[4] / "docs/backends.md").read_text()


@pytest.mark.parametrize("model", [name for name, own in bfl.MODELS.items() if not own.requires])
def test_every_model_accepts_its_own_defaults(model: str) -> None:
    resolved, warnings = CLOUD.resolve(GenerationRequest(prompt="x", bfl_model=model))

    CLOUD.check(resolved, LIMITS)
    assert warnings == ()
    assert resolved.bfl_model == model


def test_a_running_request_keeps_its_default_model() -> None:
    resolved, _ = CLOUD.resolve(GenerationRequest(prompt="x"))

    assert bfl.capabilities(FLEX).for_requested_model(resolved).model == "flux-2-pro-preview"


def test_every_ignored_field_gives_a_warning() -> None:
    unresolved = GenerationRequest(
        prompt="x",
        negative_prompt="y",
        scheduler="ddim",
        num_inference_steps=9,
        guidance_scale=2,
        bfl_model=ULTRA,
        width=800,
    )

    _, warnings = CLOUD.resolve(unresolved)

    text = "\n".join(warnings)
    for name in ("negative_prompt", "scheduler", "num_inference_steps", "guidance_scale", "width and height"):
        assert name in text


def fits(condition: dict[str, Any], **request: str | None) -> bool:
    """JSON Schema's rules for the keywords of these conditions."""
    if "anyOf" in condition:
        return any(fits(part, **request) for part in condition["anyOf"])
    allowed = condition["properties"]
    return all(name in request for name in condition.get("required", ())) and all(
        value in allowed[name].get("enum", [allowed[name].get("const")])
        for name, value in request.items()
        if name in allowed
    )


@pytest.mark.parametrize("field", ["model", "bfl_model"])
@pytest.mark.parametrize("model", [None, *bfl.MODELS])
def test_the_published_schema_has_the_limits_of_every_model(model: str | None, field: str) -> None:
    schema = request_schema(CLOUD, LIMITS)
    own = bfl.MODELS[model or "flux-2-pro-preview"]

    (limits,) = [entry["then"] for entry in schema["allOf"] if fits(entry["if"], **{field: model})]

    side = limits["properties"]["width"]
    assert (side["minimum"], side["maximum"], side["multipleOf"]) == (own.min_side, own.max_side, own.multiple_of)
    assert (own.num_inference_steps is None) is ("x-ignored" in limits["properties"].get("num_inference_steps", {}))
    assert limits["properties"]["negative_prompt"] == {"x-ignored": True}


def test_a_request_without_a_model_uses_the_default() -> None:
    schema = request_schema(CLOUD, LIMITS)

    (entry,) = [entry for entry in schema["allOf"] if fits(entry["if"])]

    assert entry["title"] == schema["properties"]["bfl_model"]["default"] == "flux-2-pro-preview"
    assert set(schema["properties"]["bfl_model"]["enum"]) == {*bfl.MODELS, None}


@pytest.mark.parametrize(
    ("settings", "backend"),
    [
        ({}, "sd"),
        ({"SD_BFL_API_KEY": KEY}, "sd"),
        ({"SD_BACKENDS": "sd,flux-api"}, "sd"),
        ({"SD_BACKENDS": "sd,flux-api", "SD_BFL_API_KEY": KEY}, "flux-api"),
        ({"SD_BACKENDS": "sd,flux-api", "SD_BFL_API_KEY": KEY, "SD_DEFAULT_BACKEND": "sd"}, "sd"),
    ],
    ids=str,
)
def test_the_cloud_is_the_default_backend_if_it_is_configured(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], backend: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    assert load(ApiSettings).effective_default_backend is Backend(backend)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SD_BFL_API_KEY", "5ecret with blanks"),
        ("SD_BFL_API_KEY", "5ecret\nx-other: 1"),
        ("SD_BFL_API_KEY", "5ecrét"),
        ("SD_BFL_BASE_URL", "http://5ecret.example.com"),
        ("SD_BFL_BASE_URL", "https://user:5ecret@example.com"),
        ("SD_BFL_BASE_URL", "5ecret"),
        ("SD_BFL_DEFAULT_MODEL", "5ecret"),
        ("SD_BFL_CONCURRENCY", "0"),
    ],
)
def test_an_invalid_setting_is_reported_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as raised:
        load(WorkerSettings)

    assert raised.value.detail.startswith(f"{name} is wrong: ")
    assert "5ecr" not in raised.value.detail


def test_the_key_is_not_shown_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_BFL_API_KEY", f" {KEY} ")

    settings = load(WorkerSettings)

    assert KEY not in repr(settings)
    assert settings.bfl_api_key is not None
    assert settings.bfl_api_key.get_secret_value() == KEY
