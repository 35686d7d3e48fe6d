"""Keys, limits, ownership and lists hold in every protocol, and each can be switched off."""

import base64

import httpx
import openai
import pytest
import replicate
import requests
from replicate.exceptions import ReplicateError

from shared.jobs.types import ApiProtocol
from tests.api.clients import ALICE, BOB, Client
from tests.api.protocols.conftest import openai_for
from tests.stack import Api, Stack
from tests.worker.images.image_checks import pixels

GENERATIONS = "/v1/images/generations"


def job_of(client: Client, answer: requests.Response) -> requests.Response:
    return client.get(f"/api/jobs/{answer.headers['x-job-id']}")


def test_a_job_of_any_protocol_is_listed_by_its_origin(api: Api) -> None:
    openai_job = api.post(GENERATIONS, {"prompt": "x"}).headers["x-job-id"]
    huggingface_job = api.post("/models/null", {"inputs": "x"}).headers["x-job-id"]
    native_job = api.post("/api/txt2img", {"prompt": "x"}).json()["id"]

    newest = {origin.value: api.get(f"/api/jobs?origin={origin}&limit=1").json()["jobs"] for origin in ApiProtocol}
    assert [newest[origin][0]["id"] for origin in ("openai", "huggingface", "native")] == [
        openai_job,
        huggingface_job,
        native_job,
    ]
    assert newest[ApiProtocol.FAL] == []
    assert api.get("/api/jobs?origin=smtp").status_code == 422


def test_a_job_of_another_protocol_can_be_rerun_in_the_native_one(api: Api) -> None:
    job = api.get(f"/api/jobs/{api.post(GENERATIONS, {'prompt': 'x'}).headers['x-job-id']}").json()

    again = api.post("/api/txt2img", job["request"]).json()

    first, second = (pixels(api.get(f"/api/jobs/{made['id']}/images/0").content) for made in (job, again))
    assert (first == second).all()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {ALICE}"},
        {"Authorization": f"Token {ALICE}"},
        {"Authorization": f"Key {ALICE}"},
        {"X-API-Key": ALICE},
        {"Authorization": "Basic " + base64.b64encode(f"any:{ALICE}".encode()).decode()},
    ],
    ids=["bearer", "token", "key", "x-api-key", "basic"],
)
def test_a_key_is_taken_from_where_the_client_puts_it(keyed: Stack, alice: Client, headers: dict[str, str]) -> None:
    answer = requests.post(keyed.api.url + GENERATIONS, json={"prompt": "x"}, headers=headers, timeout=30)

    assert job_of(alice, answer).json()["owner"] == "alice"


def test_a_key_can_be_in_the_address(keyed: Stack, alice: Client) -> None:
    url = keyed.api.url.replace("http://", f"http://any:{ALICE}@")

    answer = requests.post(url + GENERATIONS, json={"prompt": "x"}, timeout=30)

    assert job_of(alice, answer).json()["owner"] == "alice"


def test_jobs_of_one_key_are_hidden_from_another(keyed: Stack, alice: Client, bob: Client) -> None:
    with openai_for(keyed.api.url, ALICE) as client:
        answer = client.images.with_raw_response.generate(prompt="x")

    assert alice.get(f"/api/jobs/{answer.headers['x-job-id']}").status_code == 200
    assert bob.get(f"/api/jobs/{answer.headers['x-job-id']}").status_code == 404


def test_two_keys_with_equal_bodies_never_share_a_job(keyed: Stack) -> None:
    answers = [
        requests.post(
            keyed.api.url + GENERATIONS,
            json={"prompt": "equal"},
            headers={"Authorization": f"Bearer {key}", "x-stainless-retry-count": "1"},
            timeout=30,
        )
        for key in (ALICE, BOB)
    ]

    assert len({answer.headers["x-job-id"] for answer in answers}) == 2


def test_a_wrong_key_raises_what_the_client_expects(keyed: Stack) -> None:
    with openai_for(keyed.api.url, "wrong") as client, pytest.raises(openai.AuthenticationError, match="API key"):
        client.images.generate(prompt="x")


def test_errors_of_paths_that_two_protocols_have_are_explained_to_the_clients_of_both(keyed: Stack) -> None:
    url = keyed.api.url
    with httpx.HTTPTransport() as transport:
        stranger = replicate.Client(base_url=url, api_token="wrong", transport=transport)
        with pytest.raises(ReplicateError, match="The API key is missing or invalid"):
            stranger.run("imagegen/null", input={"prompt": "x"})
        with pytest.raises(ReplicateError, match="perhaps you mean null"):
            replicate.Client(base_url=url, api_token=ALICE, transport=transport).models.get("imagegen/nul")
    # The AI SDK reads no errors with another `error`.
    refused = requests.post(f"{url}/v1/models/imagegen/null/predictions", json={"input": {"prompt": "x"}}, timeout=30)
    assert (refused.status_code, refused.json()["code"], "error" in refused.json()) == (401, "unauthorized", False)
    with openai_for(url, ALICE) as client, pytest.raises(openai.NotFoundError, match="perhaps you mean null"):
        client.models.retrieve("imagegen/nul")


def test_links_of_another_protocol_are_signed(keyed: Stack) -> None:
    with openai_for(keyed.api.url, ALICE) as client:
        images = client.images.generate(prompt="x", response_format="url")

    assert images.data is not None
    url = images.data[0].url
    assert url is not None
    assert "signature=" in url
    assert requests.get(url, timeout=10).headers["content-type"] == "image/png"


@pytest.fixture(scope="module")
def narrow(idle: Stack) -> Api:
    """Nobody works here, and one job fills the queue."""
    return idle.start_api(SD_MAX_QUEUED_JOBS="1", SD_SYNC_TIMEOUT_SECONDS="1")


def test_a_full_queue_is_a_rate_limit_that_may_be_tried_again(narrow: Api) -> None:
    narrow.post("/api/jobs", {"prompt": "x"})

    answer = narrow.post(GENERATIONS, {"prompt": "x"})

    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert (answer.headers["x-should-retry"], answer.headers["retry-after"]) == ("true", "5")


@pytest.mark.parametrize(
    ("protocols", "served"), [("native", set()), ("openai", {GENERATIONS}), ("native,huggingface", {"/models/null"})]
)
def test_protocols_can_be_switched_off(null: Stack, protocols: str, served: set[str]) -> None:
    api = null.start_api(SD_PROTOCOLS=protocols)

    answers = {
        path: api.post(path, {"prompt": "x", "inputs": "x"}).status_code for path in (GENERATIONS, "/models/null")
    }

    assert {path for path, status in answers.items() if status == 200} == served
    assert {status for path, status in answers.items() if path not in served} <= {404}
    assert api.post("/api/txt2img", {"prompt": "x"}).status_code == 200
    api.process.stop()


def test_an_alias_is_a_name_of_a_model(null: Stack) -> None:
    api = null.start_api(SD_MODEL_ALIASES="painter=null, dall-e-3 = nothing")

    def status(model: str) -> int:
        return api.post(GENERATIONS, {"prompt": "x", "model": model}).status_code

    assert [status(model) for model in ("painter", "dall-e-2", "null", "dall-e-3", "pointer")] == [
        200,
        200,
        200,
        404,
        404,
    ]
    assert "painter" in [model["id"] for model in api.get("/v1/models").json()["data"]]
    api.process.stop()


def test_a_list_of_models_serves_readers_of_both_protocols(api: Api) -> None:
    listed = api.get("/v1/models").json()

    assert (listed["object"], listed["next"], listed["previous"]) == ("list", None, None)
    assert listed["data"][0]["id"] == "null"
    assert len(listed["results"]) == len(listed["data"])


def test_every_protocol_has_a_tag_of_its_own(api: Api) -> None:
    schema = api.get("/openapi.json").json()

    tagged = {path: operation["tags"] for path, methods in schema["paths"].items() for operation in methods.values()}
    assert (tagged[GENERATIONS], tagged["/models/{model}"]) == (["OpenAI"], ["Hugging Face"])
    assert tagged["/mcp"] == ["MCP"]
    names = {"OpenAI", "A1111", "Replicate", "fal", "Hugging Face", "MCP"}
    assert {tag["name"] for tag in schema["tags"] if tag["description"]} == names
    errors = schema["components"]["responses"]
    assert errors["openai-error"]["content"]["application/json"]["schema"]["required"] == ["error"]
