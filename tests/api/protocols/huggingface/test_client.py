"""InferenceClient of the package huggingface_hub draws with the starter model."""

import base64
import io

import pytest
import requests
from huggingface_hub import ImageToImageTargetSize, InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from PIL import Image

from tests.api.images import encoded, noise_png, scene
from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.worker.images.image_checks import corners, pixels, shows_a_red_heart

HEART = RED_HEART["prompt"]
SHORT = {"num_inference_steps": 12}


@pytest.fixture(scope="module")
def client(sd: Stack) -> InferenceClient:
    return InferenceClient(model=f"{sd.api.url}/models/starter", token="none")


def as_pixels(image: Image.Image) -> object:
    return pixels(encoded(image))


@pytest.mark.parametrize("size", [(128, 128), (512, 512), (1024, 1024)])
def test_a_prompt_becomes_an_image_of_the_size_that_was_asked(client: InferenceClient, size: tuple[int, int]) -> None:
    image = client.text_to_image(HEART, width=size[0], height=size[1], num_inference_steps=12, seed=42)

    assert image.size == size
    assert shows_a_red_heart(pixels(encoded(image)))


def test_the_job_is_listed_under_its_origin(sd: Stack, client: InferenceClient) -> None:
    chosen = {"guidance_scale": 3.5, "num_inference_steps": 2, "scheduler": "EulerDiscreteScheduler"}
    client.text_to_image("x", negative_prompt="y", seed=9, **chosen)  # type: ignore[arg-type]

    job = sd.api.get("/api/jobs?origin=huggingface&limit=1").json()["jobs"][0]
    assert (job["origin"], job["request"]["seed"], job["request"]["guidance_scale"]) == ("huggingface", 9, 3.5)
    assert job["request"]["scheduler"] == "euler"


def test_an_image_and_a_prompt_become_an_image(client: InferenceClient) -> None:
    image = client.image_to_image(
        encoded(scene(256, 256)),
        prompt=HEART,
        target_size=ImageToImageTargetSize(width=320, height=256),
        num_inference_steps=12,
        strength=0.2,
        seed=42,
    )

    assert image.size == (320, 256)
    assert corners(pixels(encoded(image)))[0] > 60


def test_a_large_image_is_read_as_an_image(client: InferenceClient) -> None:
    image = client.image_to_image(noise_png(256, 256), prompt="x", num_inference_steps=2)

    assert image.size == (256, 256)


def test_a_jpeg_in_the_alphabet_for_urls_is_an_image(null: Stack) -> None:
    inputs = base64.urlsafe_b64encode(encoded(scene(96, 80), "JPEG")).decode()

    answer = requests.post(f"{null.api.url}/models/null", json={"inputs": inputs}, timeout=60)

    assert Image.open(io.BytesIO(answer.content)).size == (96, 80)


def test_an_image_alone_is_the_body_itself(sd: Stack, client: InferenceClient) -> None:
    image = client.image_to_image(encoded(scene(128, 128)))

    assert image.size == (128, 128)


def test_accept_selects_the_format(sd: Stack) -> None:
    answer = requests.post(
        f"{sd.api.url}/models/starter",
        json={"inputs": "x", "parameters": {"num_inference_steps": 2}},
        headers={"Accept": "image/webp"},
        timeout=60,
    )

    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).size == (128, 128)


def test_a_wrong_request_is_explained(client: InferenceClient) -> None:
    with pytest.raises(BadRequestError, match="num_inference_steps"):
        client.text_to_image("x", num_inference_steps=100_000)


def test_an_unknown_model_is_explained(sd: Stack) -> None:
    client = InferenceClient(model=f"{sd.api.url}/models/startr", token="none")

    with pytest.raises(HfHubHTTPError, match="perhaps you mean starter"):
        client.text_to_image("x")
