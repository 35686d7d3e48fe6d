"""Capabilities of models: checks, defaults and the published schema agree."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.errors import InvalidRequest
from shared.jobs.requests import GenerationRequest
from shared.models import bfl
from shared.models.capabilities import Capabilities, RequestLimits
from shared.models.request_schema import request_schema

REFERENCE = f"sha256:{'0' * 64}"
LIMITS = RequestLimits(max_pixels=512 * 512, max_images=2, max_pixel_steps=10**9)
MODEL = Capabilities(
    model="some-model",
    width=128,
    height=256,
    multiple_of=8,
    min_side=64,
    max_side=1024,
    num_inference_steps=20,
    guidance_scale=7.5,
    schedulers=("ddim", "euler"),
)
DISTILLED = MODEL.model_copy(update={"schedulers": (), "ignored": ("negative_prompt", "scheduler")})


def refused_fields(model: Capabilities, **fields: Any) -> list[str]:
    try:
        model.check(GenerationRequest(prompt="x", **fields), LIMITS)
    except InvalidRequest as error:
        return [field.pointer for field in error.errors]
    return []


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({}, []),
        ({"width": 64, "height": 1024}, []),
        ({"width": 63}, ["/width"]),
        ({"width": 56}, ["/width"]),
        ({"width": 68}, ["/width"]),
        ({"height": 1032}, ["/height", "/width"][:1]),
        ({"width": 68, "height": 68}, ["/width", "/height"]),
        ({"width": 512, "height": 520}, ["/width"]),
        ({"width": 1024}, []),
        ({"num_images": 2}, []),
        ({"num_images": 3}, ["/num_images"]),
        ({"scheduler": "ddim"}, []),
        ({"scheduler": "other"}, ["/scheduler"]),
        ({"negative_prompt": "y", "num_inference_steps": 150, "guidance_scale": 50}, []),
    ],
    ids=str,
)
def test_invalid_fields_are_named(fields: dict[str, Any], refused: list[str]) -> None:
    assert refused_fields(MODEL, **fields) == refused


def test_ignored_fields_are_never_refused() -> None:
    assert refused_fields(DISTILLED, scheduler="other", negative_prompt="y") == []


def test_defaults_fill_missing_fields_only() -> None:
    request = GenerationRequest(prompt="x", width=64, guidance_scale=0.0, label="mine")

    resolved, warnings = MODEL.resolve(request)

    assert warnings == ()
    assert resolved == request.model_copy(update={"height": 256, "num_inference_steps": 20})


def test_what_workers_would_do_to_images_is_left_out_for_models_that_must_not_get_it() -> None:
    model = bfl.MODELS["flux-2-pro"]
    request = GenerationRequest.model_validate({"prompt": "x", "image": [REFERENCE], "resize_mode": "crop"})

    resolved, warnings = model.resolve(request, (300, 100))

    assert resolved.resize_mode is None
    assert warnings == ("resize_mode is ignored: flux-2-pro does not support it",)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"resize_mode": "crop"}, "resize_mode"),
        ({"image": [REFERENCE], "mask_fill": "grey"}, "mask_fill"),
        ({"image": [REFERENCE], "mask": REFERENCE, "mask_padding": 8, "resize_mode": "crop"}, "resize_mode"),
    ],
)
def test_what_would_change_no_image_is_refused(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        GenerationRequest.model_validate({"prompt": "x", **fields})


def test_every_ignored_field_of_a_request_is_a_warning() -> None:
    request = GenerationRequest(prompt="x", scheduler="ddim", negative_prompt="y")

    _, warnings = DISTILLED.resolve(request)
    _, none = DISTILLED.resolve(GenerationRequest(prompt="x"))

    assert warnings == (
        "negative_prompt is ignored: some-model does not support it",
        "scheduler is ignored: some-model does not support it",
    )
    assert none == ()


def accepts(field: dict[str, Any], value: Any) -> bool:
    """Validate with the part of JSON Schema that the published fields use."""
    if "anyOf" in field:
        return any(accepts(choice, value) for choice in field["anyOf"])
    if "enum" in field:
        return value in field["enum"]
    kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
    if value is None:
        return "null" in kinds
    if isinstance(value, str):
        fits = field.get("minLength", 0) <= len(value) <= field.get("maxLength", len(value))
        return "string" in kinds and fits and re.search(field.get("pattern", ""), value) is not None
    if not ({"integer", "number"} & set(kinds)) or ("number" not in kinds and value != int(value)):
        return False
    within = field.get("minimum", value) <= value <= field.get("maximum", value)
    return bool(within and value % field.get("multipleOf", 1) == 0 if "integer" in kinds else within)


@pytest.mark.parametrize("model", [MODEL, DISTILLED], ids=["all", "distilled"])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("prompt", ["", "x", "x\n", "x\0", "x" * 4000, "x" * 4001]),
        ("negative_prompt", [None, "", "y", "\x1f"]),
        ("width", [None, 0, 16, 56, 64, 65, 72, 1024, 1032, 8192]),
        ("height", [None, 0, 16, 56, 64, 65, 72, 1024, 1032, 8192]),
        ("num_inference_steps", [None, 0, 1, 150, 151]),
        ("guidance_scale", [None, -0.5, 0, 7.5, 50, 50.5]),
        ("seed", [None, -1, 0, 2**32 - 1, 2**32]),
        ("num_images", [None, 0, 1, 2, 3, 64]),
        ("scheduler", [None, "ddim", "other"]),
        ("label", [None, "", "x", "x" * 128, "x" * 129]),
        ("deadline_seconds", [None, 0, 1, 86_400, 86_401]),
    ],
)
def test_the_schema_accepts_exactly_what_the_check_accepts(model: Capabilities, name: str, values: list[Any]) -> None:
    field = request_schema(model, LIMITS)["properties"][name]

    for value in values:
        assert accepts(field, value) is is_accepted(model, name, value), value


def is_accepted(model: Capabilities, name: str, value: Any) -> bool:
    try:
        # The other side is small, so that only this one matters.
        sides = {"width": 64, "height": 64} if name in ("width", "height") else {}
        request = GenerationRequest.model_validate({"prompt": "x", **sides, name: value})
        model.check(request, LIMITS)
    except (ValueError, InvalidRequest):
        return False
    return True


def test_the_schema_has_exactly_the_fields_of_a_request() -> None:
    schema = request_schema(DISTILLED, LIMITS)

    assert set(schema["properties"]) == set(GenerationRequest.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["prompt"]
    assert schema["x-max-pixels"] == LIMITS.max_pixels
    assert {name for name, field in schema["properties"].items() if "x-ignored" in field} == set(DISTILLED.ignored)


def test_the_schema_has_the_models_defaults() -> None:
    fields = request_schema(MODEL, LIMITS)["properties"]

    names = ("width", "height", "num_inference_steps", "guidance_scale")
    assert [fields[name]["default"] for name in names] == [128, 256, 20, 7.5]


REFERENCE = "sha256:" + "0" * 64
SIDES = st.integers(1, 20_000)
EDITORS = {
    "some": MODEL.model_copy(update={"max_input_images": 1}),
    **{name: bfl.MODELS[name] for name in ("flux-2-pro", "flux-pro-1.1", "flux-kontext-pro")},
}


@pytest.mark.parametrize("model", EDITORS.values(), ids=EDITORS)
@given(width=SIDES, height=SIDES)
def test_the_size_derived_from_an_image_is_always_valid(model: Capabilities, width: int, height: int) -> None:
    request = GenerationRequest(prompt="x", image=(REFERENCE,))

    resolved, _ = model.resolve(request, (width, height), LIMITS.max_pixels)

    model.check(resolved, LIMITS, (width, height))
    model.check(request, LIMITS, (width, height))


@pytest.mark.parametrize(
    ("size", "fields", "expected"),
    [
        ((512, 256), {}, (512, 256)),
        ((517, 263), {}, (512, 256)),
        ((4000, 2000), {}, (720, 360)),
        ((16, 8), {}, (128, 64)),
        ((300, 200), {"width": 600}, (600, 400)),
        ((300, 200), {"height": 400}, (600, 400)),
        ((300, 200), {"width": 128, "height": 512}, (128, 512)),
    ],
    ids=str,
)
def test_missing_sides_follow_the_aspect_ratio_of_the_image(
    size: tuple[int, int], fields: dict[str, int], expected: tuple[int, int]
) -> None:
    request = GenerationRequest(prompt="x", image=(REFERENCE,), **fields)

    resolved, _ = EDITORS["some"].resolve(request, size, LIMITS.max_pixels)

    assert (resolved.width, resolved.height) == expected


def test_strength_has_a_default_only_with_an_input_image() -> None:
    model = MODEL.model_copy(update={"max_input_images": 1, "strength": 0.8})

    assert model.resolve(GenerationRequest(prompt="x"))[0].strength is None
    assert model.resolve(GenerationRequest(prompt="x", image=(REFERENCE,)), (64, 64))[0].strength == 0.8
    assert request_schema(model, LIMITS)["properties"]["strength"]["default"] == 0.8
    assert request_schema(MODEL, LIMITS)["properties"]["strength"]["type"] == "null"
