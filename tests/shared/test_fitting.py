"""Sizes that do not suit a model are rendered at one that does."""

from typing import Any

import pytest

from shared.jobs.requests import MAX_SIDE, MIN_SIDE, GenerationRequest
from shared.models.bfl import MODELS
from shared.models.capabilities import Capabilities, RequestLimits, Size

STARTER = Capabilities(
    model="starter",
    width=128,
    height=128,
    multiple_of=8,
    min_side=64,
    max_side=512,
    num_inference_steps=20,
    guidance_scale=4.0,
    max_input_images=1,
    strength=0.6,
)
SDXL = STARTER.model_copy(update={"model": "sdxl", "width": 1024, "height": 1024, "max_side": 4096})
IMAGE = ("sha256:" + "0" * 64,)
LIMITS = RequestLimits(max_pixels=4_194_304, max_images=4, max_pixel_steps=500_000_000)


def resolved(
    model: Capabilities, size: Size | None, input_size: Size | None = None, max_pixels: int | None = None, **fields: Any
) -> tuple[GenerationRequest, tuple[str, ...]]:
    sides = {} if size is None else {"width": size[0], "height": size[1]}
    request = GenerationRequest(prompt="x", fit_size=True, **sides, **fields)
    model.check(request, LIMITS, input_size)
    return model.resolve(request, input_size, max_pixels)


@pytest.mark.parametrize(
    ("model", "requested", "made"),
    [
        (STARTER, (512, 512), (128, 128)),
        (STARTER, (1024, 1024), (128, 128)),
        (STARTER, (1024, 1792), (96, 168)),
        (STARTER, (256, 192), (144, 104)),
        (SDXL, (512, 512), (1024, 1024)),
        (SDXL, (256, 256), (1024, 1024)),
        (SDXL, (1024, 1792), (768, 1352)),
        (SDXL, (4096, 512), (2896, 360)),
    ],
)
def test_a_size_is_made_at_the_native_area_and_scaled(model: Capabilities, requested: Size, made: Size) -> None:
    request, warnings = resolved(model, requested)

    assert (request.width, request.height) == pytest.approx(made, abs=model.multiple_of)
    assert (request.output_width, request.output_height) == requested
    made_at, final = f"{request.width}x{request.height}", f"{requested[0]}x{requested[1]}"
    assert warnings == (f"rendered at {made_at}, which suits {model.model}, and scaled to {final}",)


@pytest.mark.parametrize("requested", [(1024, 1792), (512, 512), (144, 112)])
def test_a_model_of_one_size_makes_everything_at_it(requested: Size) -> None:
    model = STARTER.model_copy(update={"only_native_size": True})

    request, _ = resolved(model, requested)

    assert (request.width, request.height) == (128, 128)
    assert (request.output_width, request.output_height) == requested
    # An input image gives the shape.
    assert resolved(model, None, (640, 480), image=IMAGE)[0].width == 144


@pytest.mark.parametrize(
    ("model", "requested"), [(STARTER, (128, 128)), (STARTER, (144, 112)), (SDXL, (1152, 896)), (SDXL, (1024, 1024))]
)
def test_a_size_near_the_native_one_is_made_as_it_is(model: Capabilities, requested: Size) -> None:
    request, warnings = resolved(model, requested)

    assert (request.width, request.height, request.output_width, warnings) == (*requested, None, ())


def test_a_size_between_the_multiples_is_made_at_one_of_them() -> None:
    request, _ = resolved(STARTER, (130, 121))

    assert (request.width, request.height, request.output_width, request.output_height) == (128, 120, 130, 121)


def test_without_a_size_it_is_the_native_one_or_that_of_the_image() -> None:
    assert resolved(STARTER, None)[0].output_width is None

    request, _ = resolved(STARTER, None, (640, 480), image=IMAGE)

    assert (request.width, request.height) == (144, 104)
    assert (request.output_width, request.output_height) == (640, 480)


def test_a_missing_side_follows_the_image() -> None:
    request, _ = resolved(STARTER, None, (640, 320), image=IMAGE, width=512)

    assert (request.output_width, request.output_height) == (512, 256)


@pytest.mark.parametrize(("requested", "target"), [((8192, 8192), (2048, 2048)), ((8192, 4096), (2896, 1448))])
def test_a_size_beyond_the_limits_of_the_operator_is_reduced(requested: Size, target: Size) -> None:
    request, warnings = resolved(SDXL, requested, max_pixels=LIMITS.max_pixels)

    assert (request.output_width, request.output_height) == target
    assert warnings[0].startswith(f"{requested[0]}x{requested[1]} is beyond this service's limits")


@pytest.mark.parametrize("input_size", [(1, 1), (1, 60_000), (60_000, 1), (7, 9)])
@pytest.mark.parametrize("model", [STARTER, SDXL, *MODELS.values()], ids=lambda model: model.model)
def test_what_is_resolved_is_a_valid_request(model: Capabilities, input_size: Size) -> None:
    request, _ = model.resolve(GenerationRequest(prompt="x", fit_size=True, image=IMAGE), input_size, 4_194_304)

    again = GenerationRequest.model_validate_json(request.model_dump_json())
    for side in (again.width, again.height, again.output_width, again.output_height):
        assert side is None or MIN_SIDE <= side <= MAX_SIDE


def test_resolving_twice_changes_nothing() -> None:
    once, _ = resolved(STARTER, (512, 512))

    assert STARTER.resolve(once) == (once, ())


def test_a_cloud_model_makes_every_size_within_its_limits() -> None:
    request, warnings = resolved(MODELS["flux-2-pro"], (512, 256))

    assert (request.width, request.height, warnings) == (512, 256, ())
    # A provider may return another size than requested.
    assert (request.output_width, request.output_height) == (512, 256)


def test_how_far_from_the_native_area_a_model_can_go_depends_on_it() -> None:
    flexible = SDXL.model_copy(update={"size_tolerance": 4.0})

    assert [resolved(model, (512, 512))[0].width for model in (SDXL, flexible)] == [1024, 512]


def test_the_caller_may_choose_both_sizes() -> None:
    request, warnings = STARTER.resolve(
        GenerationRequest(prompt="x", width=128, height=64, output_width=512, output_height=256)
    )

    assert (request.width, request.output_width, warnings) == (128, 512, ())
