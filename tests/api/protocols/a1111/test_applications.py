"""Requests of applications that are no packages, as they send them: Open WebUI, SillyTavern, Dify and LibreChat."""

import base64
import json
from typing import Any

import pytest
import requests

from tests.api.clients import ALICE
from tests.conftest import RED_HEART
from tests.stack import Api, Stack
from tests.worker.images.image_checks import opened, pixels, shows_a_red_heart_on_blue

HEART = RED_HEART["prompt"]


def sent(api: Api, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> requests.Response:
    return requests.request(method, f"{api.url}/sdapi/v1/{path}", data=body, headers=headers, timeout=60)


def first_image(answer: requests.Response) -> bytes:
    """Bare base64, as LibreChat needs it: it splits at a comma and keeps what is before."""
    assert answer.status_code == 200, answer.text
    (image,) = answer.json()["images"]
    assert "," not in image
    return base64.b64decode(image, validate=True)


def assert_heart(answer: requests.Response, side: int) -> None:
    drawn = first_image(answer)
    assert opened(drawn).size == (side, side)
    assert shows_a_red_heart_on_blue(pixels(drawn))


def test_open_webui(sd: Stack) -> None:
    basic = {"authorization": "Basic " + base64.b64encode(b"user:password").decode()}
    headers = {**basic, "Content-Type": "application/json"}
    options = sent(sd.api, "GET", "options", None, basic).json()
    models = sent(sd.api, "GET", "sd-models", None, basic).json()
    assert [(model["title"], model["model_name"]) for model in models] == [(options["sd_model_checkpoint"], "starter")]

    # The whole object comes back, with the model that the user chose.
    whole = json.dumps({**options, "sd_model_checkpoint": models[0]["title"]}).encode()
    assert sent(sd.api, "POST", "options", whole, headers).json() is None
    body = {
        "prompt": HEART,
        "batch_size": 1,
        "width": 512,
        "height": 512,
        "steps": 20,
        "negative_prompt": "low quality",
    }
    body |= {"cfg_scale": 4.0, "sampler_name": "Euler", "scheduler": "Automatic", "seed": 42}
    answer = sent(sd.api, "POST", "txt2img", json.dumps(body).encode(), headers)

    assert_heart(answer, 512)
    assert json.loads(answer.json()["info"])["seed"] == 42


def test_silly_tavern(sd: Stack) -> None:
    headers = {"Authorization": "Basic " + base64.b64encode(b":").decode(), "Content-Type": "application/json"}
    options = sent(sd.api, "GET", "options", None, headers).json()
    assert "forge_preset" not in options
    for path in ("upscalers", "latent-upscale-modes", "sd-vae", "sd-modules", "samplers", "schedulers", "sd-models"):
        listed = sent(sd.api, "GET", path, None, headers)
        assert (listed.status_code, isinstance(listed.json(), list)) == (200, True)
    model = {"sd_model_checkpoint": options["sd_model_checkpoint"]}
    assert sent(sd.api, "POST", "options", json.dumps(model).encode(), headers).status_code == 200
    progress = sent(sd.api, "GET", "progress", None, headers).json()
    assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)

    body = {
        "url": sd.api.url,
        "auth": "",
        "prompt": HEART,
        "negative_prompt": "low quality",
        "sampler_name": "DDIM",
        "scheduler": "Automatic",
        "steps": 20,
        "cfg_scale": 4,
        "width": 512,
        "height": 512,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 2,
        "hr_additional_modules": [],
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "seed": 42,
        "override_settings": {"CLIP_stop_at_last_layers": 1},
        "override_settings_restore_afterwards": True,
        "clip_skip": 1,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
    }
    answer = sent(sd.api, "POST", "txt2img", json.dumps(body).encode(), headers)

    assert_heart(answer, 512)
    assert sent(sd.api, "POST", "interrupt", b"", headers).json() == {}


def test_dify_sends_no_content_type(sd: Stack) -> None:
    assert [model["model_name"] for model in sent(sd.api, "GET", "sd-models", None, {}).json()] == ["starter"]
    chosen = json.dumps({"sd_model_checkpoint": "starter"}).encode()
    assert sent(sd.api, "POST", "options", chosen, {}).status_code == 200
    assert "DPM++ 2M" in [sampler["name"] for sampler in sent(sd.api, "GET", "samplers", None, {}).json()]
    body = {
        "prompt": HEART,
        "negative_prompt": "",
        "seed": 42,
        "subseed": -1,
        "subseed_strength": 0,
        "seed_resize_from_h": -1,
        "sampler_name": "DPM++ 2M",
        "seed_resize_from_w": -1,
        "batch_size": 1,
        "n_iter": 1,
        "steps": 20,
        "cfg_scale": 4,
        "width": 512,
        "height": 512,
        "restore_faces": False,
        "do_not_save_samples": False,
        "do_not_save_grid": False,
        "eta": 0,
        "denoising_strength": 0,
        "s_min_uncond": 0,
        "s_churn": 0,
        "s_tmax": 0,
        "s_tmin": 0,
        "s_noise": 0,
        "override_settings": {"sd_model_checkpoint": ""},
        "override_settings_restore_afterwards": True,
        "refiner_switch_at": 0,
        "disable_extra_networks": False,
        "firstpass_image": "",
        "comments": "",
        "enable_hr": False,
        "firstphase_width": 0,
        "firstphase_height": 0,
        "hr_scale": 2,
        "hr_second_pass_steps": 0,
        "hr_resize_x": 0,
        "hr_resize_y": 0,
        "hr_prompt": "",
        "hr_negative_prompt": "",
        "script_args": [],
        "send_images": True,
        "save_images": False,
        "alwayson_scripts": {},
        "model": "",
        "lora": "",
    }
    assert_heart(sent(sd.api, "POST", "txt2img", json.dumps(body).encode(), {}), 512)


@pytest.mark.parametrize("sampler", [{}, {"sampler_index": "DPM++ 2M Karras"}], ids=["now", "before"])
def test_libre_chat(sd: Stack, sampler: dict[str, str]) -> None:
    body: dict[str, Any] = {"prompt": HEART, "negative_prompt": "low quality", "cfg_scale": 4.5, "steps": 22, **sampler}
    body |= {"width": 1024, "height": 1024, "seed": 42}
    headers = {"Accept": "application/json, text/plain, */*", "Content-Type": "application/json"}

    answer = sent(sd.api, "POST", "txt2img", json.dumps(body).encode(), headers)

    assert_heart(answer, 1024)
    info = json.loads(answer.json()["info"])
    assert (info["seed"], info["width"], info["height"], len(info["infotexts"])) == (42, 1024, 1024, 1)


def test_a_key_in_the_url_is_a_password(keyed: Stack) -> None:
    url = keyed.api.url.replace("http://", f"http://dify:{ALICE}@")

    answer = requests.post(f"{url}/sdapi/v1/txt2img", data=json.dumps({"prompt": "x"}), timeout=30)

    assert answer.status_code == 200
    assert answer.json()["parameters"]["prompt"] == "x"
