"""The official MCP client against /mcp, in both eras of the protocol."""

import asyncio
import base64
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import httpx2
import numpy as np
import pytest
import requests
from mcp import Client as McpClient
from mcp import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from tests.api.clients import ALICE, ALICE_READ_ONLY, BOB
from tests.api.images import encoded, noise_png, scene
from tests.api.problem import assert_problem
from tests.stack import Api, Stack

Era = Literal["legacy", "2026-07-28"]
ERAS: tuple[Era, ...] = ("legacy", "2026-07-28")
#: What Claude Desktop accepts in one result.
MAX_RESULT_BYTES = 1024 * 1024


def use(url: str, work: Callable[[McpClient], Awaitable[Any]], *, era: Era = "legacy", key: str | None = None) -> Any:
    """Connect, work, disconnect."""

    async def run() -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
            transport = streamable_http_client(f"{url}/mcp", http_client=http)
            async with McpClient(transport, mode=era) as client:
                return await work(client)

    return asyncio.run(run())


def call(api: Api, tool: str, *, era: Era = "legacy", key: str | None = None, **arguments: Any) -> Any:
    return use(api.url, lambda client: client.call_tool(tool, arguments), era=era, key=key)


def texts(result: Any) -> str:
    return "\n".join(block.text for block in result.content if block.type == "text")


def image_of(result: Any) -> Image.Image:
    (data,) = [base64.b64decode(block.data) for block in result.content if block.type == "image"]
    return Image.open(io.BytesIO(data))


def job_id_of(result: Any) -> str:
    return texts(result).split()[1]


@pytest.mark.parametrize("era", ERAS)
def test_every_tool_is_listed_with_a_schema_that_describes_its_arguments(api: Api, era: Era) -> None:
    listed = use(api.url, lambda client: client.list_tools(), era=era)

    tools = {tool.name: tool for tool in listed.tools}
    assert set(tools) == {"generate_image", "edit_image", "get_image", "wait_for_job", "cancel_job", "list_models"}
    schema = tools["generate_image"].input_schema
    assert schema["required"] == ["prompt"]
    assert all(field.get("description") for field in schema["properties"].values())


@pytest.mark.parametrize("era", ERAS)
def test_an_image_is_made_with_preview_link_seed_and_job(sd: Stack, era: Era) -> None:
    arguments = {"prompt": "a red heart on a blue background", "seed": 42}

    result = use(sd.api.url, lambda client: client.call_tool("generate_image", arguments), era=era)

    assert not result.is_error
    assert "128x128, seed 42" in texts(result)
    pixels = np.asarray(image_of(result).convert("RGB")).astype(int)
    red, blue = pixels[56:72, 56:72].mean((0, 1)), pixels[:8, :8].mean((0, 1))
    assert red[0] > red[2] + 80
    assert blue[2] > blue[0] + 80
    (link,) = re.findall(r"http\S+", texts(result))
    assert requests.get(link, timeout=30).headers["content-type"] == "image/png"
    job = sd.api.get(f"/api/jobs/{job_id_of(result)}").json()
    assert (job["origin"], job["images"][0]["seed"]) == ("mcp", 42)


def test_progress_is_reported_while_the_job_runs(sd: Stack) -> None:
    seen: list[tuple[float, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        assert total == 1.0
        seen.append((progress, message))

    # Long enough on any machine: the first quarter of a second is not reported.
    arguments = {"prompt": "a green apple", "num_inference_steps": 40}
    use(sd.api.url, lambda client: client.call_tool("generate_image", arguments, progress_callback=on_progress))

    assert seen
    assert [progress for progress, _ in seen] == sorted(progress for progress, _ in seen)
    # Steps that follow each other quickly are reported together.
    assert all(re.fullmatch("step [1-9][0-9]? of 40", message or "") for _, message in seen)


def test_an_image_of_an_earlier_job_can_be_edited_by_its_id(sd: Stack) -> None:
    first = call(sd.api, "generate_image", prompt="a yellow star", seed=1)

    edited = call(sd.api, "edit_image", prompt="a yellow star", image=f"{job_id_of(first)}/0", strength=0.3, seed=2)

    assert not edited.is_error, texts(edited)
    before, after = (np.asarray(image_of(result).convert("RGB")).astype(int) for result in (first, edited))
    assert 0 < np.abs(before - after).mean() < 40


@pytest.mark.parametrize("source", ["data-url", "base64"])
def test_an_image_can_be_sent_with_the_call(api: Api, source: str) -> None:
    data = base64.b64encode(encoded(scene())).decode()

    result = call(
        api, "edit_image", prompt="x", image=f"data:image/png;base64,{data}" if source == "data-url" else data
    )

    assert not result.is_error, texts(result)


@pytest.mark.parametrize("size", ["preview", "full"])
def test_results_stay_below_what_clients_accept(api: Api, size: str) -> None:
    """The null engine returns the input where nothing may change, so this image is large noise."""
    noise = base64.b64encode(noise_png(1024, 1024)).decode()
    made = call(api, "edit_image", prompt="x", image=noise, strength=0.01)
    assert len(made.model_dump_json()) < MAX_RESULT_BYTES

    shown = call(api, "get_image", job_id=job_id_of(made), size=size)

    assert len(shown.model_dump_json()) < MAX_RESULT_BYTES
    preview = image_of(shown)
    assert preview.format == "JPEG"
    assert max(preview.size) <= 768
    assert f"/api/jobs/{job_id_of(made)}/images/0" in texts(shown)


def test_a_withheld_image_is_not_counted(api: Api) -> None:
    body = {"prompt": "x", "num_images": 2, "metadata": {"simulate": {"flag": 1}}}
    job = api.post("/api/txt2img", body).json()

    told = texts(call(api, "wait_for_job", job_id=job["id"]))

    assert "made 1 of 2 images" in told
    assert "Image 0:" not in told
    assert "Warning: the safety checker rejected 1 of 2 images" in told


def test_a_long_job_goes_on_and_can_be_waited_for_and_cancelled(idle: Stack) -> None:
    waiting = idle.api.post("/api/jobs", {"prompt": "x"}).json()

    result = call(idle.api, "wait_for_job", job_id=waiting["id"], seconds=0)
    assert f"Job {waiting['id']} is queued" in texts(result)
    assert "wait_for_job" in texts(result)

    assert "was cancelled" in texts(call(idle.api, "cancel_job", job_id=waiting["id"]))
    assert "was cancelled" in texts(call(idle.api, "wait_for_job", job_id=waiting["id"], seconds=0))


def test_models_are_listed_with_what_they_can_do(sd: Stack) -> None:
    models = {model["name"]: model for model in json.loads(texts(call(sd.api, "list_models")))}

    assert models.keys() == {"starter", "upscale-starter"}
    model = models["starter"]
    assert model["is_default"]
    assert model["supports"]["negative_prompt"]
    assert model["defaults"]["width"] == 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "x", "width": 17}, "width"),
        ({"prompt": "x", "model": "no-such-model"}, "No model has this name"),
        ({"prompt": ""}, "prompt is missing. (invalid-request)"),
        ({"prompt": "x", "seed": -1}, "seed must be at least 0. (invalid-request)"),
        ({"seed": 1}, "prompt is missing. (invalid-request)"),
        ({"prompt": "x\0"}, "prompt must not contain control characters"),
        ({"prompt": "x" * 5000}, "prompt may have at most 4000 characters"),
        ({"prompt": "x", "sed": 1}, "sed is not a known argument; perhaps you mean seed"),
        ({"prompt": "x", "steps": 4}, "steps is not a known argument; perhaps you mean num_inference_steps"),
        ({"prompt": "x", "size": "64x64"}, "size is not a known argument; perhaps you mean width and height"),
    ],
)
def test_wrong_arguments_are_explained_to_the_model(sd: Stack, arguments: dict[str, Any], message: str) -> None:
    result = call(sd.api, "generate_image", **arguments)

    assert result.is_error
    assert message in texts(result)


def test_arguments_that_clients_add_of_their_own_accord_are_ignored_and_named(api: Api) -> None:
    result = call(api, "generate_image", prompt="x", toolCallId="call_1", chatInput="draw x", sessionId="1")

    assert not result.is_error
    assert "Warning: this tool has no argument toolCallId, chatInput, sessionId." in texts(result)


def test_empty_arguments_count_as_absent(api: Api) -> None:
    result = call(api, "generate_image", prompt="x", model="", num_images=None, seed="")

    assert not result.is_error


def test_waiting_calls_of_agents_are_limited_for_each_client(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null", SD_MAX_EVENT_STREAMS="1")
    job = api.post("/api/jobs", {"prompt": "x"}).json()

    async def wait_twice(client: McpClient) -> list[str]:
        calls = [asyncio.create_task(client.call_tool("wait_for_job", {"job_id": job["id"]})) for _ in range(2)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        api.delete(job["links"]["self"])
        return [texts(await ended) for ended in calls]

    waited = use(api.url, wait_twice, era="2026-07-28")
    assert sorted("rate-limited" in text for text in waited) == [False, True]


def test_a_client_that_wants_to_listen_is_told_that_there_is_nothing_to_hear(api: Api) -> None:
    assert_problem(api.get("/mcp", headers={"Accept": "text/event-stream"}), 405, "method-not-allowed")


@pytest.mark.parametrize("image", ["!!!", "data:text/html;base64,PGI+", "01a207b4-0da0-76eb-8b84-9486d49425aa/0"])
def test_an_unusable_image_is_explained_to_the_model(api: Api, image: str) -> None:
    result = call(api, "edit_image", prompt="x", image=image)

    assert result.is_error
    assert "(in" in texts(result) or "(job-not-found)" in texts(result)


def test_a_key_is_needed_and_shows_only_its_own_jobs(keyed: Stack) -> None:
    made = call(keyed.api, "generate_image", key=ALICE, prompt="x")

    assert "(job-not-found)" in texts(call(keyed.api, "get_image", key=BOB, job_id=job_id_of(made)))
    assert requests.post(f"{keyed.api.url}/mcp", json={}, timeout=30).status_code == 401
    answer = requests.post(
        f"{keyed.api.url}/mcp", json={}, headers={"Authorization": f"Bearer {ALICE_READ_ONLY}"}, timeout=30
    )
    assert answer.status_code == 403


def test_what_any_web_page_may_send_is_refused(api: Api) -> None:
    answer = requests.post(f"{api.url}/mcp", data="{}", headers={"Content-Type": "text/plain"}, timeout=30)

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")


def test_the_document_describes_a_call_that_works(api: Api) -> None:
    operation = api.get("/openapi.json").json()["paths"]["/mcp"]["post"]
    (example,) = operation["requestBody"]["content"]["application/json"]["examples"].values()

    answer = api.post("/mcp", example["value"], headers={"Accept": "application/json, text/event-stream"})

    (media,) = {answer.headers["content-type"]} & operation["responses"]["200"]["content"].keys()
    assert media == "text/event-stream"
    data = next(line for line in answer.text.splitlines() if line.startswith("data: "))
    assert not json.loads(data.removeprefix("data: "))["result"].get("isError")


def test_clients_that_start_a_program_reach_the_service_through_the_command_line(api: Api) -> None:
    program = StdioServerParameters(
        command=sys.executable, args=["-m", "compose.cli", "mcp", "--url", api.url], cwd=None
    )

    async def run() -> Any:
        async with McpClient(program) as client:
            return await client.call_tool("generate_image", {"prompt": "x", "seed": 5})

    result = asyncio.run(run())
    assert "seed 5" in texts(result)


def test_ctrl_c_ends_the_program_while_its_client_says_nothing(api: Api) -> None:
    command = [sys.executable, "-m", "compose.cli", "mcp", "--url", api.url]
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(f"{json.dumps(request)}\n")
        program.stdin.flush()
        assert json.loads(program.stdout.readline())["result"]["serverInfo"]["name"] == "imagegen"

        program.send_signal(signal.SIGINT)

        try:
            assert program.wait(60) == -signal.SIGINT
        finally:
            program.kill()
