"""The A1111 protocol: whose job progress, interrupt and options mean, and bad requests."""

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import requests
from requests.adapters import HTTPAdapter

from shared.access.sessions import CallerSessions
from shared.redis.store import Store, connect
from tests.api.clients import ALICE, BOB, Client
from tests.api.images import encoded, half_mask, png_claiming, scene
from tests.stack import Api, Stack

TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
IMAGE = base64.b64encode(encoded(scene())).decode()
HTML = "data:text/html;base64," + base64.b64encode(b"<html></html>").decode()
POLLERS = 8


def refusal(answer: requests.Response, status: int, code: str) -> str:
    """The message of an error in the shape of the web UI."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    error = answer.json()
    assert error["error"] == code, error
    assert error["detail"] == error["errors"]
    assert len(answer.content) < 2048
    message: str = error["detail"]
    return message


def progress_of(client: Client) -> dict[str, Any]:
    answer = client.get("/sdapi/v1/progress")
    assert answer.status_code == 200
    progress: dict[str, Any] = answer.json()
    return progress


class Caller(threading.Thread):
    """Waits for txt2img on a thread."""

    def __init__(self, client: Client, **body: Any) -> None:
        super().__init__()
        self._client = client
        self._body = {"prompt": "x", **body}
        self.answer: requests.Response | None = None

    def run(self) -> None:
        self.answer = self._client.request("POST", TXT2IMG, json=self._body)


def until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_progress_shows_the_callers_own_job_and_its_image(sd: Stack) -> None:
    client = Client(sd.api, None)
    caller = Caller(client, prompt="a red heart", steps=150, width=128, height=128, seed=1)
    caller.start()

    until(lambda: progress_of(client)["current_image"])
    shown = progress_of(client)
    client.request("POST", "/sdapi/v1/interrupt")
    caller.join()

    assert 0 < shown["progress"] < 1
    assert (shown["state"]["job_count"], shown["state"]["sampling_steps"]) == (1, 150)
    assert base64.b64decode(shown["current_image"]).startswith(b"\xff\xd8")
    assert caller.answer is not None
    assert refusal(caller.answer, 404, "image-not-found") == "The job was cancelled; it has no image."
    assert progress_of(client)["progress"] == progress_of(client)["state"]["job_count"] == 0


def test_strangers_neither_see_nor_stop_a_job(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = f"alice:{ALICE},bob:{BOB}"
    with Stack(redis_url, tmp_path_factory.mktemp("a1111"), SD_BACKENDS="null", SD_API_KEY=keys) as stack:
        stack.start_api()
        stack.start_api()
        alice, bob, elsewhere = Client(stack.api, ALICE), Client(stack.api, BOB), Client(stack.apis[1], ALICE)
        caller = Caller(alice)
        caller.start()
        until(lambda: progress_of(elsewhere)["state"]["job_count"])

        assert progress_of(bob)["state"]["job_count"] == 0
        for path in ("interrupt", "skip"):
            assert bob.request("POST", f"/sdapi/v1/{path}").json() == {}
        assert progress_of(alice)["state"]["job_count"] == 1
        # Another process of the service knows the job too.
        assert elsewhere.request("POST", "/sdapi/v1/interrupt").json() == {}
        caller.join()
        assert caller.answer is not None
        assert caller.answer.status_code == 404


def test_the_chosen_checkpoint_is_the_callers_own(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"SD_BACKENDS": "null,flux-api", "SD_BFL_API_KEY": "key", "SD_DEFAULT_BACKEND": "null"}
    keys = f"alice:{ALICE},bob:{BOB}"
    with Stack(redis_url, tmp_path_factory.mktemp("a1111"), SD_API_KEY=keys, **settings) as stack:
        stack.start_worker("null")
        stack.start_api()
        alice, bob = Client(stack.api, ALICE), Client(stack.api, BOB)
        names = {model["model_name"]: model for model in alice.get("/sdapi/v1/sd-models").json()}
        assert {"null", "flux-2-pro"} <= names.keys()

        def checkpoint(client: Client) -> str:
            title: str = client.get("/sdapi/v1/options").json()["sd_model_checkpoint"]
            return title

        assert checkpoint(alice) == checkpoint(bob) == names["null"]["title"]
        chosen = {"sd_model_checkpoint": names["flux-2-pro"]["hash"], "unknown": [1]}
        assert alice.request("POST", "/sdapi/v1/options", json=chosen).json() is None
        assert checkpoint(alice) == names["flux-2-pro"]["title"]
        assert checkpoint(bob) == names["null"]["title"]
        assert alice.request("POST", "/sdapi/v1/options", json={"sd_model_checkpoint": ""}).status_code == 200
        assert checkpoint(alice) == names["null"]["title"]
        # It makes images from others only, so lists do not offer it, and img2img needs it.
        assert "flux-pro-1.0-fill" not in names
        filling = {"sd_model_checkpoint": "flux-pro-1.0-fill"}
        assert bob.request("POST", "/sdapi/v1/options", json=filling).status_code == 200
        assert checkpoint(bob).startswith("flux-pro-1.0-fill [")
        wrong = alice.request("POST", "/sdapi/v1/options", json={"sd_model_checkpoint": "flux-2-prro"})
        assert "flux-2-pro" in refusal(wrong, 404, "model-not-found")


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"n_iter": 1000}, "batch_size x n_iter"),
        ({"batch_size": 5}, "batch_size x n_iter"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "many"}, "batch_size"),
        ({"prompt": "x" * 4_000_000}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": "\x00"}, "prompt"),
        ({"steps": -1}, "steps"),
        ({"steps": 100_000}, "steps"),
        ({"cfg_scale": "high"}, "cfg_scale"),
        ({"width": 0}, "width"),
        ({"height": 99_999}, "height"),
        ({"seed": 2**40}, "seed"),
        ({"override_settings": "text"}, "override_settings"),
        ({"clip_skip": 99}, "clip_skip"),
        ({"enable_hr": True, "hr_second_pass_steps": 1000}, "second_pass"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_field_is_named(api: Api, fields: dict[str, Any], part: str) -> None:
    message = refusal(api.post(TXT2IMG, {"prompt": "x", **fields}), 422, "invalid-request")

    assert part in message


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "invalid-request"),
        ({"init_images": []}, "invalid-request"),
        ({"init_images": "text"}, "invalid-request"),
        ({"init_images": ["nonsense!"]}, "invalid-request"),
        ({"init_images": [IMAGE[:100] + "===="]}, "invalid-image"),
        ({"init_images": [HTML]}, "invalid-image"),
        ({"init_images": [base64.b64encode(png_claiming(60_000, 60_000)).decode()]}, "invalid-image"),
        ({"init_images": [IMAGE], "mask": "nonsense"}, "invalid-image"),
        ({"init_images": [IMAGE], "mask": base64.b64encode(encoded(half_mask(8, 8))).decode()}, "invalid-image"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_image_is_refused(api: Api, fields: dict[str, Any], code: str) -> None:
    refusal(api.post(IMG2IMG, {"prompt": "x", **fields}), 422, code)


@pytest.mark.parametrize("path", ["extra-single-image", "extra-batch-images", "png-info"])
def test_a_wrong_image_to_look_at_is_refused(api: Api, path: str) -> None:
    for image in ("nonsense", HTML, IMAGE[:100] + "====", None, 5, ["x"]):
        refused = api.post(f"/sdapi/v1/{path}", {"image": image, "imageList": [{"data": image}]})
        assert refused.status_code == 422
        assert refused.json()["error"] in ("invalid-image", "invalid-request")
    assert api.post(f"/sdapi/v1/{path}", []).status_code == 422


def test_an_image_that_would_be_too_large_is_refused(api: Api) -> None:
    body = {"image": base64.b64encode(encoded(scene(480, 320))).decode(), "upscaler_1": "Lanczos"}

    refused = api.post("/sdapi/v1/extra-single-image", {**body, "upscaling_resize": 16})
    assert "7680x5120" in refusal(refused, 422, "invalid-request")
    assert api.post("/sdapi/v1/extra-single-image", {**body, "upscaling_resize": 4}).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"a": 1, "a": 2}', b"\xff", b"5"])
@pytest.mark.parametrize("path", ["txt2img", "img2img", "options", "png-info"])
def test_a_body_that_is_no_object_is_refused(api: Api, path: str, body: bytes) -> None:
    answer = requests.post(f"{api.url}/sdapi/v1/{path}", data=body, timeout=30)

    refusal(answer, 422, "invalid-request")


@pytest.mark.parametrize("path", ["txt2img", "img2img", "options", "png-info", "extra-single-image"])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_what_any_web_page_may_send_is_refused(api: Api, path: str, kind: str) -> None:
    headers = {"Content-Type": kind}

    answer = requests.post(f"{api.url}/sdapi/v1/{path}", data=b"{}", headers=headers, timeout=30)

    refusal(answer, 415, "unsupported-media-type")


def test_what_has_no_effect_gives_a_warning(api: Api) -> None:
    body = {
        "prompt": "a [cat:dog:0.5] AND a (bird:1.2) <lora:missing:0.8> <hypernet:x>",
        "sampler_name": "no such",
        "tiling": True,
        "restore_faces": True,
        "styles": ["mine"],
        "script_name": "x/y plot",
        "alwayson_scripts": {"ControlNet": {"args": []}},
        "subseed_strength": 0.5,
        "width": 64,
        "height": 64,
        "nonsense": {"deep": [1]},
    }
    info = json.loads(api.post(TXT2IMG, body).json()["info"])

    said = "\n".join(info["warnings"])
    for part in (
        "lora 'missing'",
        "hypernet 'x'",
        "tiling",
        "restore_faces",
        "styles",
        "script_name",
        "alwayson_scripts",
        "subseed_strength",
        "[from:to:when]",
        "AND",
        "prompt weights are ignored",
    ):
        assert part in said
    assert info["prompt"] == "a dog, a bird"


def test_unknown_routes_answer_in_the_shape_of_the_web_ui(api: Api) -> None:
    assert refusal(api.get("/sdapi/v1/nothing"), 404, "not-found")
    assert refusal(api.get(TXT2IMG), 405, "method-not-allowed")


def test_no_images_are_sent_unless_they_are_wanted(api: Api) -> None:
    answer = api.post(TXT2IMG, {"prompt": "", "send_images": False})

    assert answer.json()["images"] == []
    assert answer.json()["parameters"]["prompt"] == ""
    assert answer.headers["x-job-id"]


def test_a_thousand_polls_cost_few_calls_to_redis(null: Stack, api: Api) -> None:
    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_maxsize=POLLERS))

    def poll(_: int) -> tuple[int, bool]:
        answer = session.get(f"{api.url}/sdapi/v1/progress", timeout=30)
        return answer.status_code, {"progress", "error"} & answer.json().keys() != set()

    # Many steps: a job is cancelled at the next one.
    lasting = {"prompt": "x", "metadata": {"simulate": {"seconds": 120}}, "num_inference_steps": 150}
    running = api.post("/api/jobs", lasting).json()["id"]
    # As if it had come from here: only the native protocol can have the null model take its time.
    Store(connect(null.settings["SD_REDIS_URL"])).run(CallerSessions(null.prefix).set_job("@127.0.0.1", running))
    try:
        until(lambda: progress_of(Client(api, None))["state"]["job"] == running)
        with redis.Redis.from_url(null.settings["SD_REDIS_URL"]) as client, ThreadPoolExecutor(POLLERS) as pool:
            before, begin = script_calls(client), time.monotonic()
            answers = set(pool.map(poll, range(1000)))
            calls, seconds = script_calls(client) - before, time.monotonic() - begin
    finally:
        api.delete(f"/api/jobs/{running}")

    # Callers above the rate limit get an error of the protocol.
    assert answers <= {(200, True), (429, True)}
    # Other processes of the tests make a few calls a second beside these.
    assert calls < 1000 / 10 + 20 * seconds


def script_calls(client: redis.Redis) -> int:
    """Every operation of the service on Redis is one."""
    calls: int = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    return calls
