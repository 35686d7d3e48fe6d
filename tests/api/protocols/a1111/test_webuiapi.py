"""The package webuiapi draws with the starter model."""

from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import webuiapi
from PIL import Image, ImageOps

from tests.api.clients import ALICE
from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.worker.images.image_checks import Pixels, shows_a_red_heart_on_blue

HEART = {"prompt": RED_HEART["prompt"], "seed": 42, "steps": 12}


@pytest.fixture(scope="module")
def client(sd: Stack) -> webuiapi.WebUIApi:
    return client_of(sd.api.url)


def client_of(url: str, **options: str) -> webuiapi.WebUIApi:
    address = urlsplit(url)
    return webuiapi.WebUIApi(host=address.hostname, port=address.port, **options)


def job_of(sd: Stack, result: webuiapi.WebUIApiResult) -> dict[str, Any]:
    job: dict[str, Any] = sd.api.get(f"/api/jobs/{result.info['job_id']}").json()
    return job


@pytest.fixture(scope="module")
def heart(client: webuiapi.WebUIApi) -> Image.Image:
    image: Image.Image = client.txt2img(**HEART, width=128, height=128).image
    return image


def shows_heart(image: Image.Image) -> bool:
    return shows_a_red_heart_on_blue(pixels_of(image))


def pixels_of(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def test_the_first_image_shows_what_was_asked_in_the_size_that_was_asked(sd: Stack, client: webuiapi.WebUIApi) -> None:
    result = client.txt2img(**HEART)

    assert result.image.size == (512, 512)
    assert shows_heart(result.image)
    job = job_of(sd, result)
    assert job["origin"] == "a1111"
    assert any("scaled to 512x512" in warning for warning in job["warnings"])


def test_info_says_how_each_image_was_made(client: webuiapi.WebUIApi) -> None:
    fields = {**HEART, "steps": 3, "negative_prompt": "green"}
    result = client.txt2img(**fields, n_iter=2, batch_size=2, width=128, height=128)

    assert len(result.images) == 4
    info = result.info
    assert info["all_seeds"] == [42, 43, 44, 45]
    assert (info["seed"], info["width"], info["height"], info["steps"]) == (42, 128, 128, 3)
    assert info["sampler_name"] == "Euler a"
    assert info["infotexts"][1] == (
        f"{HEART['prompt']}\nNegative prompt: green\nSteps: 3, Sampler: Euler a, Schedule type: Automatic, "
        f"CFG scale: 7.0, Seed: 43, Size: 128x128, Model: starter, Version: {info['version']}"
    )
    assert client.png_info(result.images[1]).info == info["infotexts"][1]
    assert result.parameters["prompt"] == HEART["prompt"]


def test_a_random_seed_is_reported(client: webuiapi.WebUIApi) -> None:
    first, second = (client.txt2img(prompt="x", seed=-1, steps=2, width=64, height=64) for _ in range(2))

    assert first.info["seed"] != second.info["seed"]
    again = client.txt2img(prompt="x", seed=first.info["seed"], steps=2, width=64, height=64)
    assert again.image.tobytes() == first.image.tobytes()


def test_an_image_is_changed_within_its_mask(client: webuiapi.WebUIApi, heart: Image.Image) -> None:
    mask = Image.new("L", heart.size, 0)
    mask.paste(255, (64, 0, 128, 128))
    changes = {"images": [heart], "prompt": "a yellow star", "steps": 8, "width": 128, "height": 128, "seed": 1}

    right = client.img2img(**changes, mask_image=mask, mask_blur=0, denoising_strength=0.9)
    left = client.img2img(**changes, mask_image=mask, mask_blur=0, denoising_strength=0.9, inpainting_mask_invert=1)
    blurred = client.img2img(**changes, mask_image=ImageOps.invert(mask), mask_blur=8, denoising_strength=0.9)

    assert changed_halves(heart, right.image) == (False, True)
    assert changed_halves(heart, left.image) == (True, False)
    assert changed_halves(heart, blurred.image) == (True, True)


def test_only_the_masked_area_is_rendered_unless_the_whole_image_is_wanted(client: webuiapi.WebUIApi) -> None:
    room = Image.new("RGB", (200, 120), (40, 90, 225))
    room.paste("yellow", (150, 60, 200, 120))
    mask = Image.new("L", room.size, 0)
    mask.paste(255, (10, 10, 50, 50))
    changes = {"images": [room], "mask_image": mask, "mask_blur": 0, **HEART, "width": 128, "height": 128}

    area = client.img2img(**changes, denoising_strength=1.0, inpaint_full_res_padding=8)
    whole = client.img2img(**changes, denoising_strength=1.0, inpaint_full_res=False)

    assert area.image.size == room.size
    assert shows_heart(area.image.crop((2, 2, 58, 58)))
    changed = (pixels_of(area.image) != pixels_of(room)).any(axis=2)
    assert not changed[50:].any()
    assert not changed[:, 50:].any()
    assert whole.image.size == (128, 128)
    assert "Inpaint area: Only masked, Masked area padding: 8" in area.info["infotexts"][0]


def changed_halves(before: Image.Image, after: Image.Image) -> tuple[bool, bool]:
    old, new = pixels_of(before), pixels_of(after)
    return bool((old[:, :64] != new[:, :64]).any()), bool((old[:, 64:] != new[:, 64:]).any())


def test_an_image_keeps_more_of_itself_with_less_strength(client: webuiapi.WebUIApi, heart: Image.Image) -> None:
    changed = client.img2img([heart], prompt=HEART["prompt"], denoising_strength=0.3, width=128, height=128, steps=8)

    assert shows_heart(changed.image)


def test_a_second_pass_enlarges_the_image(sd: Stack, client: webuiapi.WebUIApi) -> None:
    result = client.txt2img(
        **HEART, enable_hr=True, hr_scale=2, hr_upscaler=webuiapi.HiResUpscaler.Lanczos, denoising_strength=0.4
    )

    assert result.image.size == (1024, 1024)
    assert shows_heart(result.image)
    assert "Hires upscale: 2.0" in result.info["infotexts"][0]
    assert job_of(sd, result)["request"]["second_pass"]["strength"] == 0.4


def test_images_are_enlarged(client: webuiapi.WebUIApi, heart: Image.Image) -> None:
    assert client.extra_single_image(heart, upscaler_1="Lanczos", upscaling_resize=3).image.size == (384, 384)
    assert client.extra_single_image(heart, upscaler_1="None", upscaling_resize=3).image.size == (128, 128)
    upscaled = client.extra_single_image(heart, upscaler_1="upscale-starter", upscaling_resize=2)
    assert upscaled.image.size == (256, 256)
    assert shows_heart(upscaled.image)
    boxed = {"resize_mode": 1, "upscaling_resize_w": 300, "upscaling_resize_h": 200, "upscaler_1": "Lanczos"}
    assert client.extra_single_image(heart, **boxed).image.size == (300, 200)
    batch = client.extra_batch_images([heart, heart.resize((64, 32))], upscaler_1="Lanczos", upscaling_resize=2)
    assert [image.size for image in batch.images] == [(256, 256), (128, 64)]
    assert shows_heart(batch.images[0])


def test_the_texts_of_foreign_images_are_read(client: webuiapi.WebUIApi) -> None:
    foreign = Image.new("RGB", (8, 8))
    foreign.info = {"prompt": '{"3": {}}', "workflow": "{}"}

    result = client.png_info(foreign)

    assert (result.info, result.json["items"]) == ("", {"prompt": '{"3": {}}', "workflow": "{}"})


def test_lists_have_the_shapes_that_the_package_reads(client: webuiapi.WebUIApi) -> None:
    (title,) = client.util_get_model_names()
    assert title == client.util_get_current_model()
    assert {"Euler a", "DPM++ 2M", "DDIM"} <= {*client.util_get_sampler_names()}
    assert "karras" in client.util_get_scheduler_names()
    assert {"None", "Lanczos", "upscale-starter"} <= {upscaler["name"] for upscaler in client.get_upscalers()}
    assert client.get_scripts() == {"txt2img": [], "img2img": []}
    assert client.get_embeddings() == {"loaded": {}, "skipped": {}}
    empty = [client.get_sd_vae, client.get_latent_upscale_modes, client.get_loras, client.get_hypernetworks]
    empty += [client.get_face_restorers, client.get_realesrgan_models, client.get_prompt_styles]
    assert [read() for read in empty] == [[]] * len(empty)
    assert "cuda" in client.get_memory()
    assert client.get_cmd_flags()["api"] is True
    assert client.refresh_checkpoints() is None
    assert client.interrogate(Image.new("RGB", (8, 8))).info == ""


def test_an_idle_service_says_so(client: webuiapi.WebUIApi) -> None:
    client.util_wait_for_ready(check_interval=0.1)
    assert client.interrupt() == client.skip() == {}


def test_checkpoints_are_chosen_by_title_name_or_hash(client: webuiapi.WebUIApi) -> None:
    (model,) = client.get_sd_models()
    of_another_service = "starter.safetensors [0123456789]"
    for text in (model["title"], model["model_name"], model["hash"], "starter.safetensors", of_another_service, ""):
        assert client.set_options({"sd_model_checkpoint": text}) is None
        result = client.txt2img(
            prompt="x", steps=1, width=64, height=64, override_settings={"sd_model_checkpoint": text}
        )
        assert result.info["sd_model_name"] == "starter"
    with pytest.raises(RuntimeError, match="model-not-found"):
        client.txt2img(prompt="x", override_settings={"sd_model_checkpoint": "no such model"})


def test_weights_change_the_image(client: webuiapi.WebUIApi) -> None:
    small = {"seed": 3, "steps": 4, "width": 64, "height": 64}
    plain, weighted, escaped = (
        client.txt2img(prompt=prompt, **small).image.tobytes()
        for prompt in ("a red heart", "a (red:0.3) heart", r"a red heart <lora:missing:1>")
    )

    assert plain != weighted
    assert plain == escaped


def test_a_password_is_a_key(keyed: Stack) -> None:
    client = client_of(keyed.api.url, username="anybody", password=ALICE)

    assert client.txt2img(prompt="x", width=64, height=64).image.size == (64, 64)
    with pytest.raises(RuntimeError, match="401"):
        client_of(keyed.api.url).txt2img(prompt="x")
