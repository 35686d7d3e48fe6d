"""How input images are sent to the provider."""

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from shared.errors import InvalidRequest
from shared.jobs.requests import GenerationRequest
from shared.models import bfl
from shared.models.capabilities import RequestLimits, Size
from shared.models.request_schema import request_schema
from tests.api.images import encoded, half_mask, scene
from tests.stack import Stack
from tests.support.polling import wait_until
from tests.worker.engines.bfl.conftest import Table
from tests.worker.engines.bfl.provider import KEY, Provider
from tests.worker.images.image_checks import Pixels, pixels
from tests.worker.recording_watch import RecordingWatch
from worker.engines.bfl.http import Http, ProviderTimeouts
from worker.images.values import Inputs

SCENE: Pixels = np.asarray(scene())
MASK: Pixels = np.asarray(half_mask())
REFERENCE = "sha256:" + "0" * 64
CLOUD = bfl.capabilities("flux-2-pro-preview")
FILL, EXPAND = "flux-pro-1.0-fill", "flux-pro-1.0-expand"


def sent(table: Table, model: str, *images: Pixels, mask: Pixels | None = None, **fields: Any) -> dict[str, Any]:
    """The submitted body for these images."""
    references: dict[str, Any] = {"image": [REFERENCE] * len(images)}
    references |= {"mask": REFERENCE} if mask is not None else {}
    unresolved = GenerationRequest.model_validate(
        {"prompt": "a cat", "seed": 7, "bfl_model": model, **references, **fields}
    )
    height, width = images[0].shape[:2]
    request, _ = table.backend.capabilities.resolve(unresolved, (width, height))
    table.backend.generate(request, Inputs(images, mask), RecordingWatch())
    body: dict[str, Any] = table.provider.posts[0].body
    return body


def shown(source: str) -> Pixels:
    return pixels(base64.b64decode(source, validate=True))


@pytest.mark.parametrize("model", [name for name in bfl.MODELS if name.startswith(("flux-2", "flux-kontext"))])
def test_input_images_are_sent_as_base64_in_order(table: Table, model: str) -> None:
    most = bfl.MODELS[model].max_input_images
    images = [np.full((64, 96, 3), 10 * number, np.uint8) for number in range(most)]

    body = sent(table, model, *images)

    names = ["input_image", *(f"input_image_{number}" for number in range(2, most + 1))]
    assert [name for name in body if name.startswith("input_image")] == names
    assert all((shown(body[name]) == image).all() for name, image in zip(names, images, strict=True))


@pytest.mark.parametrize("model", ["flux-pro-1.1", "flux-pro-1.1-ultra", "flux-dev"])
def test_older_models_take_one_image_as_image_prompt(table: Table, model: str) -> None:
    body = sent(table, model, SCENE)

    assert (shown(body["image_prompt"]) == SCENE).all()
    assert refused(model, images=2) == ["/image"]


def test_an_edit_has_the_size_of_its_input_image(table: Table) -> None:
    body = sent(table, "flux-2-pro", np.zeros((650, 1000, 3), np.uint8))

    assert (body["width"], body["height"]) == (992, 640)


def test_ratio_models_keep_the_ratio_of_the_image_by_default(table: Table) -> None:
    assert "aspect_ratio" not in sent(table, "flux-kontext-pro", np.zeros((501, 1000, 3), np.uint8))

    table.provider.requests.clear()
    assert sent(table, "flux-kontext-pro", SCENE, width=1024, height=1024)["aspect_ratio"] == "1:1"


def test_a_panorama_gets_the_nearest_supported_ratio(table: Table) -> None:
    body = sent(table, "flux-kontext-pro", np.zeros((100, 1000, 3), np.uint8))

    assert body["aspect_ratio"] == "7:3"


def test_a_fill_sends_image_and_mask_and_no_size(table: Table) -> None:
    body = sent(table, FILL, SCENE, mask=MASK, guidance_scale=80)

    assert (shown(body.pop("image")) == SCENE).all()
    assert (shown(body.pop("mask"))[..., 0] == MASK).all()
    assert body == {"prompt": "a cat", "seed": 7, "output_format": "png", "steps": 50, "guidance": 80}


def test_an_expansion_sends_the_pixels_to_add_on_each_side(table: Table) -> None:
    body = sent(table, EXPAND, SCENE, width=201, height=64)

    assert (shown(body.pop("image")) == SCENE).all()
    assert {name: body[name] for name in ("left", "right", "top", "bottom")} == {
        "left": 52,
        "right": 53,
        "top": 0,
        "bottom": 0,
    }
    assert (body["steps"], body["guidance"]) == (50, 60)
    assert "width" not in body


def test_a_large_image_is_scaled_down_before_it_is_paid_for(table: Table) -> None:
    wide = np.zeros((2000, 4000, 3), np.uint8)
    wide[:, 2000:] = 255

    body = sent(table, "flux-2-pro", wide)

    small = shown(body["input_image"])
    assert small.shape[0] * small.shape[1] <= 4_000_000
    assert small.shape[1] == pytest.approx(2 * small.shape[0], rel=0.01)


def test_several_images_of_an_edit_differ_only_in_their_seed(table: Table) -> None:
    sent(table, "flux-2-pro", SCENE, num_images=2)

    first, second = (post.body for post in table.provider.posts)
    assert (first.pop("seed"), second.pop("seed")) == (7, 8)
    assert first == second


@contextmanager
def slow_reader() -> Iterator[str]:
    """Receives 200 KB per 80 ms, and responds at the end: 12 MB take five seconds."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as stream:
                length = next(int(line.split()[1]) for line in stream if line.lower().startswith(b"content-length"))
                while stream.readline().strip():
                    pass
                for _ in range(0, length, 200_000):
                    length -= len(stream.read(min(200_000, length)))
                    time.sleep(0.08)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(60)


def test_a_slow_upload_gets_the_time_that_it_needs() -> None:
    body = io.BytesIO(b"x" * 12_000_000)
    with slow_reader() as url:
        http = Http(url, SecretStr(KEY), ProviderTimeouts(connect_seconds=2.0))

        assert http.call(url, 60.0, body=body).status == 200


def refused(model: str, images: int = 1, size: Size = (96, 64), **fields: Any) -> list[str]:
    body = {"prompt": "x", "bfl_model": model, "image": [REFERENCE] * images, **fields}
    try:
        CLOUD.check(
            GenerationRequest.model_validate(body),
            RequestLimits(max_pixels=4_194_304, max_images=4, max_pixel_steps=10**9),
            size,
        )
    except InvalidRequest as error:
        return [field.pointer for field in error.errors]
    return []


@pytest.mark.parametrize(
    ("model", "fields", "pointers"),
    [
        ("flux-2-pro", {"images": 8}, []),
        ("flux-2-pro", {"images": 9}, ["/image"]),
        ("flux-2-klein-4b", {"images": 4}, []),
        ("flux-2-klein-4b", {"images": 5}, ["/image"]),
        ("flux-kontext-max", {"images": 5}, ["/image"]),
        ("flux-2-pro", {"mask": REFERENCE}, ["/mask"]),
        ("flux-2-pro", {"size": (8000, 6000)}, []),
        ("flux-2-pro", {"size": (8000, 20)}, []),
        ("flux-pro-1.1", {"size": (3000, 17)}, []),
        (FILL, {}, ["/mask"]),
        (FILL, {"mask": REFERENCE, "width": 17, "size": (5000, 5000)}, []),
        (FILL, {"images": 0}, ["/image", "/mask"]),
        (FILL, {"mask": REFERENCE, "num_inference_steps": 14}, ["/num_inference_steps"]),
        (FILL, {"mask": REFERENCE, "guidance_scale": 1}, ["/guidance_scale"]),
        (EXPAND, {}, ["/width", "/height"]),
        (EXPAND, {"width": 96, "height": 64}, ["/width"]),
        (EXPAND, {"width": 95, "height": 70}, ["/width"]),
        (EXPAND, {"width": 96, "height": 64 + 4096}, []),
        (EXPAND, {"width": 96, "height": 64 + 4097}, ["/height"]),
        (EXPAND, {"width": 200, "height": 64, "mask": REFERENCE}, ["/mask"]),
        (EXPAND, {"width": 4000, "height": 4000}, ["/width"]),
    ],
    ids=str,
)
def test_unsupported_edits_are_refused_before_they_cost_money(
    model: str, fields: dict[str, Any], pointers: list[str]
) -> None:
    body = {name: value for name, value in fields.items() if name != "mask" or fields.get("images") != 0}

    assert sorted(set(refused(model, **body))) == sorted(pointers)


def test_strength_is_ignored() -> None:
    _, warnings = CLOUD.resolve(GenerationRequest(prompt="x", image=(REFERENCE,), strength=0.5), (96, 64))

    assert warnings == ("strength is ignored: flux-2-pro-preview does not support it",)


def test_the_schema_says_which_models_take_which_images() -> None:
    limits = RequestLimits(max_pixels=10**6, max_images=4, max_pixel_steps=10**9)
    schemas = {entry["title"]: entry["then"] for entry in request_schema(CLOUD, limits)["allOf"]}

    assert schemas["flux-2-klein-4b"]["properties"]["image"]["anyOf"][1]["maxItems"] == 4
    assert schemas["flux-2-klein-4b"]["properties"]["mask"] == {"type": "null"}
    assert schemas[FILL]["required"] == ["image", "mask"]
    assert schemas[EXPAND]["required"] == ["image", "width", "height"]


def test_an_edit_through_the_api(cloud: Stack, bfl: Provider) -> None:
    cloud.start_worker("flux-api")
    api = cloud.start_api()
    form = {"prompt": "a cat", "bfl_model": FILL}

    answer = api.http.post(
        f"{api.url}/api/img2img", data=form, files={"image": encoded(scene()), "mask": encoded(half_mask())}, timeout=60
    )

    assert answer.status_code == 200, answer.text
    (post,) = bfl.posts
    assert (shown(post.body["image"]) == SCENE).all()
    wait_until(lambda: not list((cloud.outputs / "inputs").glob("*")))
