"""Sizes of second passes, prompts without weights, and requests that only resize."""

from typing import Any

import pytest

from shared.errors import InvalidRequest
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities, RequestLimits

LIMITS = RequestLimits(max_pixels=1024 * 1024, max_images=4, max_pixel_steps=50_000_000)
MODEL = Capabilities(
    model="some-model",
    width=512,
    height=512,
    multiple_of=8,
    min_side=64,
    max_side=2048,
    num_inference_steps=20,
    guidance_scale=7.5,
    max_input_images=1,
    strength=0.75,
)
SMALL = MODEL.model_copy(update={"width": 128, "height": 128, "max_side": 512})
REFERENCE = f"sha256:{'0' * 64}"


def resolved(model: Capabilities, **fields: Any) -> GenerationRequest:
    request = GenerationRequest(prompt="x", **fields)
    model.check(request, LIMITS)
    return model.resolve(request, None, LIMITS.max_pixels)[0]


def second_size(model: Capabilities, **fields: Any) -> tuple[int | None, int | None]:
    second = resolved(model, **fields).second_pass
    assert second is not None
    return second.width, second.height


@pytest.mark.parametrize(
    ("model", "fields", "size"),
    [
        (MODEL, {"second_pass": {}}, (1024, 1024)),
        (MODEL, {"second_pass": {"scale": 1.5}, "width": 512, "height": 256}, (768, 384)),
        # The model makes what was asked for well, and so it does twice of it.
        (MODEL, {"second_pass": {}, "width": 500, "height": 500, "fit_size": True}, (1000, 1000)),
        # It makes the first pass larger than asked for: there is nothing left to enlarge.
        (MODEL, {"second_pass": {}, "width": 256, "height": 256, "fit_size": True}, (512, 512)),
        # It makes the first pass smaller, because it cannot do better.
        (SMALL, {"second_pass": {}, "width": 512, "height": 512, "fit_size": True}, (128, 128)),
        (MODEL, {"second_pass": {"scale": 4}, "fit_size": True}, (1024, 1024)),
        (MODEL, {"second_pass": {"width": 640, "height": 768}}, (640, 768)),
    ],
)
def test_the_second_pass_has_a_size_that_the_model_makes_well(
    model: Capabilities, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    assert second_size(model, **fields) == size


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"second_pass": {"scale": 4}}, "/second_pass/scale"),
        ({"second_pass": {"width": 8192, "height": 8192}}, "/second_pass/scale"),
        ({"second_pass": {"strength": 1, "num_inference_steps": 150}}, "/second_pass/scale"),
    ],
)
def test_a_second_pass_beyond_the_limits_is_refused(fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        resolved(MODEL, **fields)

    assert [error.pointer for error in refusal.value.errors] == [pointer]


def test_a_resolved_request_stays_as_it_is() -> None:
    once = resolved(SMALL, second_pass={}, width=512, height=512, fit_size=True)

    SMALL.check(once, LIMITS)
    assert SMALL.resolve(once, None, LIMITS.max_pixels) == (once, ())


def test_a_second_pass_is_a_warning_for_models_without_strength() -> None:
    model = MODEL.model_copy(update={"strength": None})

    request, warnings = model.resolve(GenerationRequest(prompt="x", second_pass={}))

    assert request.second_pass is None
    assert warnings == ("second_pass is ignored: some-model does not support it",)


def test_models_that_cannot_weigh_words_get_the_words() -> None:
    model = MODEL.model_copy(update={"ignored": ("prompt_syntax",)})
    weighted = {"prompt_syntax": "weighted", "negative_prompt": "[text]"}

    request, warnings = model.resolve(GenerationRequest(prompt="a (red:1.3) heart", **weighted))
    _, none = model.resolve(GenerationRequest(prompt="a heart", prompt_syntax="weighted"))
    brackets, _ = model.resolve(GenerationRequest(prompt="()", prompt_syntax="weighted"))

    assert (request.prompt, request.negative_prompt, request.prompt_syntax) == ("a red heart", "text", None)
    assert warnings == ("prompt weights are ignored: some-model does not support them",)
    assert none == ()
    assert brackets.prompt == "()"
    assert MODEL.resolve(GenerationRequest(prompt="(a)", prompt_syntax="weighted"))[0].prompt == "(a)"


def test_resizing_asks_no_model_for_its_limits() -> None:
    request = GenerationRequest(prompt="x", image=(REFERENCE,), resize_only=True, output_width=30, output_height=999)
    MODEL.check(request, LIMITS, (5, 5))

    resized, warnings = MODEL.resolve(request, (5, 5))

    assert (resized.width, resized.height, warnings) == (30, 999, ())
    with pytest.raises(InvalidRequest):
        MODEL.check(request.model_copy(update={"output_width": 8192, "output_height": 8192}), LIMITS, (5, 5))


@pytest.mark.parametrize(
    "fields",
    [{}, {"image": (REFERENCE,)}, {"image": (REFERENCE,) * 2, "output_width": 64, "output_height": 64}],
)
def test_resizing_needs_one_image_and_a_size(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="resize_only needs one image"):
        GenerationRequest(prompt="x", resize_only=True, **fields)
