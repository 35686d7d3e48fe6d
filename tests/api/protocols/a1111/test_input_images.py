"""The package webuiapi sends images of another shape than the result, and masks; the null model blends them."""

import base64

import numpy as np
import pytest
import webuiapi
from PIL import Image

from tests.api.images import encoded, scene
from tests.api.protocols.a1111.test_webuiapi import client_of, pixels_of
from tests.stack import Api, Stack

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
#: So little is changed that the result shows what the model began from.
FAINT = {"prompt": "x", "denoising_strength": 0.02, "width": 64, "height": 64, "seed": 1}


@pytest.fixture(scope="module")
def client(null: Stack) -> webuiapi.WebUIApi:
    return client_of(null.api.url)


def stripes() -> Image.Image:
    image = Image.new("RGB", (192, 64), GREEN)
    image.paste(RED, (0, 0, 64, 64))
    image.paste(BLUE, (128, 0, 192, 64))
    return image


def colour(image: Image.Image, x: int, y: int) -> str:
    return "rgb"[int(pixels_of(image)[y, x].argmax())]


@pytest.mark.parametrize(
    ("mode", "columns", "warnings"), [(0, "rgb", 0), (1, "ggg", 0), (2, "rgb", 0), (3, "rgb", 1), (-1, "rgb", 1)]
)
def test_the_shape_is_changed_as_the_web_ui_does(
    client: webuiapi.WebUIApi, mode: int, columns: str, warnings: int
) -> None:
    result = client.img2img([stripes()], resize_mode=mode, **FAINT)

    assert result.image.size == (64, 64)
    # The top is what would be missing in the whole image.
    assert "".join(colour(result.image, x, y=2) for x in (8, 32, 56)) == columns
    assert sum("resize_mode" in warning for warning in result.info["warnings"]) == warnings


def test_masks_are_fitted_like_their_images(client: webuiapi.WebUIApi) -> None:
    mask = Image.new("L", (192, 64), 0)
    mask.paste(255, (64, 0, 96, 64))
    changes = {**FAINT, "denoising_strength": 1.0, "mask_image": mask, "mask_blur": 0, "inpainting_fill": 1}

    result = client.img2img([stripes()], resize_mode=1, inpaint_full_res=False, **changes)

    green = (pixels_of(result.image) == GREEN).all(axis=2)
    assert (green[:, 32:].all(), green[:, :32].any()) == (True, False)


@pytest.mark.parametrize(
    ("number", "content", "wanted"),
    [(0, "fill", GREEN), (1, "original", RED), (2, "latent noise", None), (3, "latent nothing", (127, 127, 127))],
)
@pytest.mark.parametrize("full_res", [False, True])
def test_masked_parts_begin_from_what_is_chosen(
    client: webuiapi.WebUIApi, number: int, content: str, wanted: tuple[int, int, int] | None, full_res: bool
) -> None:
    image, mask = Image.new("RGB", (64, 64), GREEN), Image.new("L", (64, 64), 0)
    image.paste(RED, (20, 20, 44, 44))
    mask.paste(255, (20, 20, 44, 44))
    changes = {"mask_image": mask, "mask_blur": 0, "inpaint_full_res": full_res, "inpaint_full_res_padding": 12}

    result = client.img2img([image], inpainting_fill=number, **changes, **FAINT)

    inside = pixels_of(result.image)[22:42, 22:42].astype(int)
    if wanted is None:
        assert inside.std() > 30
    else:
        assert np.abs(inside - wanted).max() < 20
    assert f"Masked content: {content}" in result.info["infotexts"][0]
    assert result.info["warnings"] == []


@pytest.mark.parametrize(("crop", "size"), [(True, (200, 200)), (False, (600, 200))])
def test_an_enlarged_image_is_cropped_to_a_size_unless_it_must_not(
    client: webuiapi.WebUIApi, crop: bool, size: tuple[int, int]
) -> None:
    enlarged = client.extra_single_image(
        stripes(),
        resize_mode=1,
        upscaling_resize_w=200,
        upscaling_resize_h=200,
        upscaling_crop=crop,
        upscaler_1="Lanczos",
    )

    assert enlarged.image.size == size
    assert colour(enlarged.image, 20, 20) == ("g" if crop else "r")


def test_a_repeated_call_with_several_images_finds_its_jobs(api: Api) -> None:
    images = [{"data": base64.b64encode(encoded(scene(side, side))).decode()} for side in (64, 96)]
    headers = {"Idempotency-Key": "several-images"}

    first, again = (api.post("/sdapi/v1/extra-batch-images", {"imageList": images}, headers=headers) for _ in range(2))

    assert (first.status_code, len(first.json()["images"])) == (200, 2)
    assert again.json() == first.json()
    assert again.headers["x-job-id"] == first.headers["x-job-id"]


def test_null_stands_for_what_is_left_out(api: Api) -> None:
    image = base64.b64encode(encoded(scene())).decode()
    names = ("negative_prompt", "seed", "sampler_name", "override_settings", "mask", "inpaint_full_res", "resize_mode")
    body = {"prompt": "x", "init_images": [image], "inpaint_full_res_padding": None, **dict.fromkeys(names)}

    assert api.post("/sdapi/v1/img2img", body).status_code == 200
    enlarged = {"image": image, "upscaling_resize": None, "upscaling_crop": None, "upscaler_1": None}
    assert api.post("/sdapi/v1/extra-single-image", enlarged).status_code == 200
