"""The package openai draws with the starter model."""

import base64
import io
import json
from typing import Any

import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from tests.api.images import encoded, scene
from tests.api.protocols.conftest import openai_for
from tests.api.protocols.openai.recorded_events import recorded_events
from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.worker.images.image_checks import (
    corners,
    middle,
    opened,
    pixels,
    shows_a_red_heart,
)

HEART = RED_HEART["prompt"]
SEED: dict[str, Any] = {"seed": 42, "num_inference_steps": 12}
#: Of images that nobody looks at.
QUICK: dict[str, Any] = {"seed": 42, "num_inference_steps": 2}


def decoded(image: openai.types.Image) -> bytes:
    assert image.b64_json is not None
    return base64.b64decode(image.b64_json, validate=True)


@pytest.mark.parametrize("size", ["1024x1024", "512x512", "256x256", "1024x1792", "1536x1024"])
def test_the_first_image_shows_what_was_asked_in_the_size_that_was_asked(
    sd: Stack, openai_client: openai.OpenAI, size: Any
) -> None:
    answer = openai_client.images.with_raw_response.generate(prompt=HEART, model="dall-e-3", size=size, extra_body=SEED)

    images = answer.parse()
    assert images.data is not None
    (image,) = images.data
    drawn = decoded(image)
    assert "{}x{}".format(*opened(drawn).size) == images.size == size
    assert shows_a_red_heart(pixels(drawn))
    job = sd.api.get(f"/api/jobs/{answer.headers['x-request-id']}").json()
    assert (job["origin"], job["id"]) == ("openai", answer.headers["x-job-id"])
    assert any("scaled to" in warning for warning in job["warnings"])
    assert job["request"]["width"] * job["request"]["height"] <= 1.5 * 128 * 128


def test_the_native_size_is_drawn_as_it_is(sd: Stack, openai_client: openai.OpenAI) -> None:
    answer = openai_client.images.with_raw_response.generate(prompt=HEART, size="auto", extra_body=QUICK)

    images = answer.parse()
    assert images.data is not None
    assert opened(decoded(images.data[0])).size == (128, 128)
    assert sd.api.get(f"/api/jobs/{answer.headers['x-job-id']}").json()["warnings"] == []


def test_usage_is_whole(openai_client: openai.OpenAI) -> None:
    images = openai_client.images.generate(prompt="x", n=2, model="gpt-image-1", extra_body=QUICK)

    assert images.data is not None
    assert len(images.data) == 2
    assert images.usage is not None
    assert images.usage.total_tokens == images.usage.input_tokens_details.text_tokens == 0


def test_own_fields_pass_through_extra_body(sd: Stack, openai_client: openai.OpenAI) -> None:
    fields = {"seed": 7, "num_inference_steps": 3, "guidance_scale": 2.5, "negative_prompt": "y", "label": "mine"}

    answer = openai_client.images.with_raw_response.generate(prompt="x", user="anna", extra_body=fields)

    job = sd.api.get(f"/api/jobs/{answer.headers['x-job-id']}").json()
    assert {**job["request"], "label": job["label"]}.items() >= fields.items()
    assert job["metadata"] == {"user": "anna"}


def test_links_open_the_image(sd: Stack, openai_client: openai.OpenAI) -> None:
    images = openai_client.images.generate(
        prompt="x", response_format="url", output_format="webp", output_compression=10, extra_body=QUICK
    )

    assert images.data is not None
    url = images.data[0].url
    assert url is not None
    answer = sd.api.get(url.removeprefix(sd.api.url))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert images.data[0].b64_json is None


@pytest.mark.parametrize(
    ("options", "has_link"),
    [
        ({}, True),
        # The tools of LangChain and LibreChat send these, and read the link.
        ({"model": "dall-e-2"}, True),
        ({"model": "dall-e-3", "quality": "standard", "style": "vivid"}, True),
        # Open WebUI prefers a link, and then refuses to fetch it from a private address.
        ({"model": "gpt-image-1"}, False),
        ({"model": "null"}, False),
        ({"model": "dall-e-3", "response_format": "b64_json"}, False),
    ],
)
def test_clients_find_a_link_where_openai_would_send_one(null: Stack, options: Any, has_link: bool) -> None:
    with openai_for(null.api.url) as client:
        images = client.images.generate(prompt="x", **options)

    assert images.data is not None
    (image,) = images.data
    assert image.b64_json is not None
    assert (image.url is not None) is has_link
    assert image.url is None or null.api.get(image.url.removeprefix(null.api.url)).content == decoded(image)


def test_what_has_no_effect_is_a_warning(sd: Stack, openai_client: openai.OpenAI) -> None:
    answer = openai_client.images.with_raw_response.generate(
        prompt="x",
        quality="hd",
        style="vivid",
        background="transparent",
        moderation="low",
        extra_body={"steps": 3, **QUICK},
    )

    warnings = sd.api.get(f"/api/jobs/{answer.headers['x-job-id']}").json()["warnings"]
    assert {warning.split()[0] for warning in warnings} == {"quality", "style", "background", "moderation", "steps"}
    assert "steps is not a known field; perhaps you mean num_inference_steps" in warnings


def test_a_stream_has_partial_images_and_then_the_finished_one(openai_client: openai.OpenAI) -> None:
    stream = openai_client.images.generate(prompt=HEART, size="512x512", stream=True, partial_images=3, extra_body=SEED)

    *partial, completed = list(stream)
    assert [event.partial_image_index for event in partial if isinstance(event, ImageGenPartialImageEvent)] == [0, 1, 2]
    assert isinstance(completed, ImageGenCompletedEvent)
    assert completed.usage.total_tokens == 0
    final = base64.b64decode(completed.b64_json)
    assert opened(final).size == (512, 512)
    assert shows_a_red_heart(pixels(final))
    assert all(opened(base64.b64decode(event.b64_json)).size >= (64, 64) for event in partial)


def test_the_first_partial_image_is_of_one_of_the_first_two_steps(sd: Stack, openai_client: openai.OpenAI) -> None:
    with recorded_events(sd) as events:
        stream = openai_client.images.generate(prompt=HEART, stream=True, partial_images=1, extra_body=SEED)
        partial, completed = list(stream)
        published = events(stream.response.headers["x-job-id"])

    assert isinstance(partial, ImageGenPartialImageEvent)
    assert isinstance(completed, ImageGenCompletedEvent)
    number = next(number for number, event in enumerate(published) if event.type == "preview")
    preview = json.loads(published[number].data)
    assert (preview["b64_json"], preview["step"] <= 2) == (partial.b64_json, True)
    # Nor was it held back until later steps.
    assert all(json.loads(event.data)["step"] <= 2 for event in published[:number] if event.type == "progress")


def test_a_partial_image_is_sent_while_its_job_runs(null: Stack) -> None:
    lasting = {"metadata": {"simulate": {"seconds": 120}}, "num_inference_steps": 150}
    with openai_for(null.api.url) as client:
        stream = client.images.generate(prompt="x", stream=True, partial_images=3, extra_body=lasting)
        job_id = stream.response.headers["x-job-id"]

        assert isinstance(next(iter(stream)), ImageGenPartialImageEvent)

        assert null.api.get(f"/api/jobs/{job_id}").json()["state"] == "running"
        null.api.delete(f"/api/jobs/{job_id}")
        with pytest.raises(openai.APIError, match="cancelled"):
            list(stream)


def heart_with_hole(opaque: bool) -> bytes:
    """A mask as OpenAI means it: the left half is transparent, whatever its colour."""
    mask = Image.new("RGBA", (128, 128), (255, 255, 255, 255))
    if not opaque:
        mask.paste((0, 0, 0, 0), (0, 0, 64, 128))
    return encoded(mask)


def test_an_edit_repaints_what_is_transparent_in_the_mask(openai_client: openai.OpenAI) -> None:
    original = scene(128, 128)

    images = openai_client.images.edit(
        image=("in.png", encoded(original), "image/png"),
        mask=("mask.png", heart_with_hole(opaque=False), "image/png"),
        prompt="a green leaf on a white background",
        extra_body=SEED,
    )

    assert images.data is not None
    edited, before = pixels(decoded(images.data[0])), pixels(encoded(original))
    assert edited.shape == before.shape
    kept, repainted = abs(edited[:, 72:].astype(int) - before[:, 72:]), abs(edited[:, :56].astype(int) - before[:, :56])
    assert kept.mean() < 12
    assert repainted.mean() > 3 * kept.mean()


def test_an_opaque_mask_is_an_error_that_says_so(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no transparent pixels"):
        openai_client.images.edit(
            image=("in.png", encoded(scene(128, 128)), "image/png"),
            mask=("mask.png", heart_with_hole(opaque=True), "image/png"),
            prompt="x",
            extra_body=SEED,
        )


def test_an_edit_has_the_size_of_its_image(openai_client: openai.OpenAI) -> None:
    image = io.BytesIO(encoded(scene(640, 480)))
    image.name = "in.png"

    images = openai_client.images.edit(image=[image], prompt=HEART, extra_body={"strength": 0.2, **SEED})

    assert images.data is not None
    edited = pixels(decoded(images.data[0]))
    assert edited.shape == (480, 640, 3)
    # Little changes at this strength: the corners keep their colours.
    assert corners(edited)[0] > 60


def test_own_fields_of_an_edit_pass_through_its_form(sd: Stack, openai_client: openai.OpenAI) -> None:
    image = ("in.png", encoded(scene(128, 128)), "image/png")

    answer = openai_client.images.with_raw_response.edit(
        image=image, prompt="x", extra_body={**QUICK, "metadata": {"order": "7"}, "loras": []}
    )

    assert sd.api.get(f"/api/jobs/{answer.headers['x-job-id']}").json()["metadata"] == {"order": "7"}
    with pytest.raises(openai.BadRequestError, match=r"loras\[0\].name"):
        openai_client.images.edit(image=image, prompt="x", extra_body={"loras": [{"name": "ink", "scale": 0.5}]})


def test_a_variation_needs_no_prompt(openai_client: openai.OpenAI) -> None:
    with pytest.deprecated_call():
        images = openai_client.images.create_variation(
            image=("in.png", encoded(scene(128, 128)), "image/png"), size="256x256", extra_body=QUICK
        )

    assert images.data is not None
    assert opened(decoded(images.data[0])).size == (256, 256)
    assert middle(pixels(decoded(images.data[0])))


def test_models_have_the_names_that_clients_offer(openai_client: openai.OpenAI) -> None:
    names = [model.id for model in openai_client.models.list()]

    assert names[0] == "starter"
    assert {"dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1.5", "gpt-image-2"} <= set(names)
    assert openai_client.models.retrieve("starter").owned_by == "sd"
    assert openai_client.models.retrieve("dall-e-3").id == "dall-e-3"


def test_a_base_url_without_its_end_is_explained(sd: Stack) -> None:
    with openai.OpenAI(base_url=sd.api.url, api_key="none") as client:
        with pytest.raises(openai.NotFoundError, match="ends in /v1"):
            client.images.generate(prompt="x")
        with pytest.raises(openai.NotFoundError, match="ends in /v1"):
            client.models.list()


def test_an_unknown_model_is_not_found_and_names_near_ones(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="perhaps you mean starter") as refused:
        openai_client.images.generate(prompt="x", model="startr")

    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="starter"):
        openai_client.models.retrieve("startr")
