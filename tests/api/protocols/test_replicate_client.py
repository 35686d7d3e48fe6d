"""The package replicate draws with the starter model."""

import base64
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import replicate
import requests
from PIL import Image
from replicate.exceptions import ModelError, ReplicateError
from replicate.webhook import Webhooks

from tests.api.clients import ADMIN, ALICE, BOB, KEYS
from tests.api.images import encoded, scene
from tests.conftest import RED_HEART
from tests.shared.webhooks.receiver import Receiver, receiving
from tests.stack import Stack
from tests.support.polling import wait_until
from tests.worker.images.image_checks import pixels, shows_a_red_heart_on_blue

HEART = {"prompt": RED_HEART["prompt"], "num_inference_steps": 12, "seed": 42}
#: Of images that nobody looks at.
QUICK = {**HEART, "num_inference_steps": 2}
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
Connect = Callable[[str, str], replicate.Client]


@pytest.fixture(scope="module")
def connect() -> Iterator[Connect]:
    """Creates clients; their connections are closed at the end, which the package has no call for."""
    with ExitStack() as transports:

        def create(url: str, token: str) -> replicate.Client:
            transport = transports.enter_context(httpx.HTTPTransport())
            return replicate.Client(base_url=url, api_token=token, transport=transport)

        yield create


@pytest.fixture(scope="module")
def client(sd: Stack, connect: Connect) -> replicate.Client:
    return connect(sd.api.url, "none")


@pytest.fixture(scope="module")
def slow(null: Stack, connect: Connect) -> replicate.Client:
    """The engine whose jobs take as long as they are told."""
    return connect(null.api.url, "none")


def simulated(seconds: float) -> dict[str, Any]:
    return {"prompt": "x", "metadata": {"simulate": {"seconds": seconds}}}


def test_run_returns_files_that_show_what_was_asked(client: replicate.Client) -> None:
    (file,) = client.run("imagegen/starter", input=HEART)

    assert shows_a_red_heart_on_blue(pixels(file.read()))


def test_run_with_a_version_returns_the_same(client: replicate.Client) -> None:
    model = client.models.get("imagegen/starter")
    assert model.latest_version is not None

    files = client.run(f"imagegen/starter:{model.latest_version.id}", input=HEART)

    # Users take the first by its index, which an iterator does not have.
    assert isinstance(files, list)
    (file,) = files
    assert shows_a_red_heart_on_blue(pixels(file.read()))
    assert "prompt" in model.latest_version.openapi_schema["components"]["schemas"]["Input"]["properties"]


def test_names_of_other_models_inputs_are_understood(client: replicate.Client) -> None:
    inputs = {"num_outputs": 2, "aspect_ratio": "1:1", "guidance": 5.0, "output_format": "jpg", "go_fast": True}
    # As Replicate's examples for SDXL and FLUX have them.
    inputs |= {**QUICK, "megapixels": "0.25", "scheduler": "K_EULER", "prompt_strength": 0.8}
    prediction = client.models.predictions.create("imagegen/starter", inputs, wait=True)

    assert prediction.status == "succeeded"
    assert [url[:23] for url in prediction.output or ()] == ["data:image/jpeg;base64,"] * 2
    assert prediction.input is not None
    assert (prediction.input["guidance_scale"], prediction.input["num_images"]) == (5.0, 2)
    assert prediction.input["scheduler"] == "euler"
    assert prediction.logs is not None
    assert "go_fast" in prediction.logs
    assert "megapixels" in prediction.logs


def test_a_size_is_two_sides(client: replicate.Client) -> None:
    """The AI SDK sends it so."""
    prediction = client.predictions.create(version="starter", input={**QUICK, "size": "200x100"})
    other = client.predictions.create(version="starter", input={**QUICK, "size": "2K"})
    prediction.wait()
    other.wait()

    assert prediction.output is not None
    assert Image.open(io.BytesIO(base64.b64decode(prediction.output[0].partition(",")[2]))).size == (200, 100)
    assert other.status == "succeeded"
    assert "size is not a known field" in (other.logs or "")


def test_a_file_is_uploaded_and_changed(client: replicate.Client, tmp_path: Path) -> None:
    file = tmp_path / "in.png"
    file.write_bytes(encoded(scene(128, 128)))

    with file.open("rb") as image:
        (changed,) = client.run(
            "imagegen/starter", input={"prompt": "x", "image": image, "prompt_strength": 0.1, "seed": 1}
        )

    with Image.open(io.BytesIO(changed.read())) as result:
        assert result.size == (128, 128)
        red, _, blue = result.convert("RGB").getpixel((30, 30))  # type: ignore[misc] # three numbers
    assert red > blue + 80


def test_a_prediction_can_be_followed_to_its_end(slow: replicate.Client) -> None:
    prediction = slow.predictions.create(version="null", input=simulated(1.5))
    seen = [prediction.status]

    while prediction.status not in ("succeeded", "failed", "canceled"):
        prediction.reload()
        seen.append(prediction.status)
        if prediction.progress is not None and prediction.status == "processing":
            assert 0 < prediction.progress.percentage <= 1
        time.sleep(0.1)

    assert (seen[0], set(seen)) == ("starting", {"starting", "processing", "succeeded"})
    assert prediction.progress is not None
    assert prediction.progress.percentage == 1
    assert prediction.metrics is not None
    assert prediction.metrics["predict_time"] >= 1.5


def test_a_call_that_waits_in_vain_gets_a_status_that_its_client_goes_on_from(slow: replicate.Client) -> None:
    prediction = slow.models.predictions.create("imagegen/null", simulated(2.5), wait=1)

    answered = prediction.status
    prediction.wait()
    assert (answered, prediction.status) == ("starting", "succeeded")


def test_a_prediction_can_be_cancelled(slow: replicate.Client) -> None:
    prediction = slow.predictions.create(version="null", input=simulated(30))

    prediction.cancel()
    prediction.wait()

    assert prediction.status == "canceled"
    prediction.cancel()


def test_a_failure_is_an_error_with_its_reason(slow: replicate.Client) -> None:
    with pytest.raises(ModelError) as failure:
        slow.run("imagegen/null", input={"prompt": "x", "metadata": {"simulate": {"fail": "out-of-memory"}}})

    assert failure.value.prediction.status == "failed"
    assert "memory" in (failure.value.prediction.error or "")


def test_output_is_streamed(slow: replicate.Client) -> None:
    events = list(slow.stream("imagegen/null", input=simulated(0.5)))

    kinds = [event.event.value for event in events]
    assert kinds[-2:] == ["output", "done"]
    assert "logs" in kinds
    assert requests.get(events[-2].data, timeout=30).headers["content-type"] == "image/png"


def test_predictions_are_listed_page_by_page(slow: replicate.Client) -> None:
    made = [slow.predictions.create(version="null", input={"prompt": "x"}).id for _ in range(2)]

    listed = [prediction.id for prediction in slow.predictions.list()]

    assert set(made) <= set(listed)


def test_models_are_listed_for_both_kinds_of_readers(client: replicate.Client) -> None:
    listed = {model.id for model in client.models.list()}

    assert "imagegen/starter" in listed
    assert [version.id for version in client.models.get("imagegen/starter").versions.list()]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompt": "x", "aspect_ratio": "wide"}, "aspect_ratio must be two numbers"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x", "num_inference_steps": 0}, "num_inference_steps"),
        ({"prompt": "x", "num_outputs": 50}, "num_outputs: at most"),
        ({"prompt": "x", "num_images": 50}, "num_images: at most"),
        ({"prompt": "x", "guidance": "much"}, "guidance must be a number"),
        ({"prompt": "x", "image": "not an image"}, "image"),
    ],
)
def test_a_wrong_input_is_explained(client: replicate.Client, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ReplicateError) as error:
        client.predictions.create(version="starter", input=inputs)

    assert error.value.status == 422
    assert message in (error.value.detail or "")


@pytest.mark.parametrize("body", [{}, {"version": "starter"}, {"version": "starter", "input": []}, {"input": {}}])
def test_a_malformed_body_is_an_error_of_the_protocol(sd: Stack, body: dict[str, Any]) -> None:
    answer = requests.post(f"{sd.api.url}/v1/predictions", json=body, timeout=30)

    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid-request"


def test_an_unknown_model_is_explained(client: replicate.Client) -> None:
    with pytest.raises(ReplicateError, match="starter"):
        client.predictions.create(version="startr", input={"prompt": "x"})


def test_a_file_above_the_limit_is_refused(sd: Stack) -> None:
    answer = requests.post(f"{sd.api.url}/v1/files", files={"content": b"x" * 21_000_000}, timeout=30)

    assert answer.status_code == 413


def test_a_file_comes_back_in_its_address(sd: Stack) -> None:
    content = encoded(Image.effect_noise((1200, 900), 90))
    answer = requests.post(f"{sd.api.url}/v1/files", files={"content": ("in.png", content)}, timeout=30)

    file = answer.json()
    assert (answer.status_code, file["name"], file["content_type"]) == (201, "in.png", "image/png")
    assert (file["size"], file["checksums"]["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert base64.b64decode(file["urls"]["get"].removeprefix("data:image/png;base64,")) == content
    assert requests.post(f"{sd.api.url}/v1/files", files={"content": b"%PDF-1.7"}, timeout=30).status_code == 422


def test_answers_with_files_that_nobody_reads_are_limited(null: Stack) -> None:
    url = f"{null.start_api(SD_MAX_EVENT_STREAMS='1').url}/v1/files"
    content = encoded(Image.effect_noise((3000, 3000), 90))
    with requests.post(url, files={"content": content}, stream=True, timeout=30) as unread:
        assert unread.status_code == 201
        assert requests.post(url, files={"content": content}, timeout=30).status_code == 429
        assert len(unread.content) > len(content)
    # The client has the whole answer a moment before the server is done with it.
    wait_until(lambda: requests.post(url, files={"content": encoded(scene())}, timeout=30).status_code == 201)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def hooked(redis_url: str, tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Stack]:
    """A service with keys whose webhooks are signed."""
    settings = {"SD_API_KEY": KEYS, "SD_WEBHOOK_SECRET": SECRET, "SD_WEBHOOK_ALLOW": receiver.origin}
    with Stack(redis_url, tmp_path_factory.mktemp("hooked"), SD_BACKENDS="null", **settings) as stack:
        stack.start_worker("null")
        stack.start_housekeeper()
        stack.start_api()
        yield stack


def test_webhooks_are_predictions_that_the_client_verifies(hooked: Stack, receiver: Receiver, connect: Connect) -> None:
    client = connect(hooked.api.url, ADMIN)
    made = client.predictions.create(
        version="null", input={"prompt": "x"}, webhook=receiver.url, webhook_events_filter=["completed"]
    )
    sent = receiver.next()

    Webhooks.validate(headers=dict(sent.headers), body=sent.body.decode(), secret=client.webhooks.default.secret())
    body = json.loads(sent.body)
    assert (body["id"], body["status"]) == (made.id, "succeeded")
    assert requests.get(body["output"][0], timeout=30).status_code == 200


def test_only_an_admin_learns_the_secret_and_nobody_sees_predictions_of_others(hooked: Stack, connect: Connect) -> None:
    alice = connect(hooked.api.url, ALICE)
    bob = connect(hooked.api.url, BOB)
    made = alice.predictions.create(version="null", input={"prompt": "x"})

    with pytest.raises(ReplicateError) as hidden:
        bob.predictions.get(made.id)
    assert hidden.value.status == 404
    with pytest.raises(ReplicateError) as refused:
        alice.webhooks.default.secret()
    assert refused.value.status == 403
