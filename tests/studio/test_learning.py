"""Learning from an image: its data, its request as a program, and recipes in files of other programs."""

import base64
import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Locator, expect

from tests.api.images import encoded, scene
from tests.api.native.test_purge import generated
from tests.stack import Stack
from tests.studio.conftest import Open, Studio
from tests.support.polling import wait_until

BASH = shutil.which("bash") or "bash"
PARAMETERS = """a cat, "quoted" (and: weighted:1.2)
on two lines
Negative prompt: blurry, dog
Steps: 31, Sampler: Euler a, CFG scale: 6.5, Seed: 987654, Size: 96x64, Model: "someone's, model", Version: v1.10.1"""
GRAPH: dict[str, dict[str, Any]] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 4711, "steps": 12, "cfg": 3.5, "sampler_name": "euler", "positive": ["9", 0]}
        | {"negative": ["7", 0], "latent_image": ["5", 0], "model": ["4", 0]},
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "xl.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 96, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog", "clip": ["4", 1]}},
    "9": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["6", 0]}},
}


@pytest.fixture
def studio(sd: Stack, open_studio: Open) -> Studio:
    return open_studio(sd.api, permissions=["clipboard-read", "clipboard-write"])


def png(**texts: str) -> bytes:
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text, zip=len(text) > 400)
    return encoded(scene(), pnginfo=info)


def drop(studio: Studio, data: bytes, name: str, media_type: str = "image/png") -> Locator:
    """Drop a file on the page, and return the dialog that shows it."""
    expect(studio.page.get_by_role("spinbutton", name="Seed")).to_be_visible()
    studio.page.evaluate(
        """([bytes, name, type]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], name, { type }));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        [list(data), name, media_type],
    )
    return studio.page.get_by_role("dialog", name="Image from a file")


def view(studio: Studio, job: dict[str, Any]) -> Locator:
    studio.open(f"/#/job/{job['id']}/0")
    viewer = studio.page.get_by_role("dialog", name="Image")
    expect(viewer.get_by_text(str(job["request"]["seed"]), exact=True)).to_be_visible()
    return viewer


def value(studio: Studio, label: str) -> Locator:
    return studio.page.get_by_label(label, exact=True)


@pytest.fixture(scope="module")
def job(sd: Stack) -> dict[str, Any]:
    return generated(sd.api, prompt="a red house", negative_prompt="tree", seed=55, num_inference_steps=4, label="mine")


def test_a_recipe_of_automatic1111_is_read_and_used(studio: Studio) -> None:
    dialog = drop(studio, png(parameters=PARAMETERS), "foreign.png")
    expect(dialog.get_by_text("Made with AUTOMATIC1111")).to_be_visible()

    dialog.get_by_role("button", name="Use its recipe").click()

    said = "This service has no model someone's, model: the chosen one stays."
    expect(studio.page.get_by_role("status")).to_have_text(said)
    expect(studio.prompt).to_have_value('a cat, "quoted" (and: weighted:1.2)\non two lines')
    for label, expected in (("Negative prompt", "blurry, dog"), ("Seed", "987654"), ("Width", "96"), ("Height", "64")):
        expect(value(studio, label)).to_have_value(expected)
    expect(value(studio, "Steps")).to_have_value("31")
    expect(value(studio, "Guidance")).to_have_value("6.5")


@pytest.mark.parametrize("padding", [0, 500])
def test_a_recipe_of_comfyui_is_read(studio: Studio, padding: int) -> None:
    """Also compressed, which is how long texts are stored."""
    studio.page.get_by_role("searchbox").focus()
    dialog = drop(studio, png(workflow="{}", prompt=json.dumps(GRAPH) + " " * padding), "foreign.png")

    expect(dialog.get_by_text("Made with ComfyUI")).to_be_visible()
    for text in ("a lighthouse", "fog", "4711", "xl"):
        expect(dialog.get_by_role("definition").get_by_text(text, exact=True)).to_be_visible()
    dialog.get_by_role("button", name="Only the prompt").click()
    expect(studio.prompt).to_have_value("a lighthouse")
    expect(studio.prompt).to_be_focused()


def test_a_seed_that_is_too_large_for_the_service_is_left_out_in_words(studio: Studio) -> None:
    large = 156_680_208_700_286
    sampler = {**GRAPH["3"], "inputs": {**GRAPH["3"]["inputs"], "seed": large}}

    dialog = drop(studio, png(prompt=json.dumps({**GRAPH, "3": sampler})), "foreign.png")
    dialog.get_by_role("button", name="Use its recipe").click()

    expect(studio.page.get_by_role("status")).to_contain_text(f"The seed {large} is too large for this service")
    expect(value(studio, "Seed")).to_have_value("")


def test_a_program_that_lacks_the_input_images_says_so(sd: Stack, studio: Studio) -> None:
    image = "data:image/png;base64," + base64.b64encode(encoded(scene(64, 64))).decode()
    job = generated(sd.api, prompt="from an image", image=image, num_inference_steps=2, seed=9)

    view(studio, job).get_by_role("button", name="curl").click()

    expect(studio.page.get_by_role("status")).to_have_text(
        "Copied as curl, without its input images, which are not kept"
    )


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_file_of_this_service_makes_the_same_image_again(sd: Stack, studio: Studio, output_format: str) -> None:
    made = generated(sd.api, prompt="a green apple", seed=12, num_inference_steps=3, output_format=output_format)
    data = sd.api.get(f"{made['links']['self']}/images/0").content

    drop(studio, data, "mine", f"image/{output_format}").get_by_role("button", name="Use its recipe").click()

    expect(studio.prompt).to_have_value("a green apple")
    expect(value(studio, "Seed")).to_have_value("12")
    expect(value(studio, "Steps")).to_have_value("3")


@pytest.mark.parametrize(
    "data",
    [
        encoded(scene()),
        png(parameters="", prompt="not JSON", imagegen="{"),
        png(parameters="Steps: 20")[:-40],
        b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXt",
        encoded(Image.new("RGB", (8, 8)), "JPEG"),
    ],
)
def test_a_file_without_a_recipe_is_said_to_have_none(studio: Studio, data: bytes) -> None:
    dialog = drop(studio, data, "plain.png")

    expect(dialog.get_by_text("This file does not say how it was made.")).to_be_visible()
    expect(dialog.get_by_role("button", name="Use its recipe")).to_have_count(0)


def test_the_viewer_shows_the_data_and_takes_it_over(studio: Studio, job: dict[str, Any]) -> None:
    viewer = view(studio, job)
    for text in ("starter", "tree", "mine", job["id"]):
        expect(viewer.get_by_role("definition").get_by_text(text, exact=True)).to_be_visible()

    viewer.get_by_role("button", name="Everything").click()

    expect(studio.prompt).to_have_value("a red house")
    for label, expected in (("Negative prompt", "tree"), ("Seed", "55"), ("Steps", "4")):
        expect(value(studio, label)).to_have_value(expected)


def test_only_the_seed_is_taken_over(studio: Studio, job: dict[str, Any]) -> None:
    studio.prompt.fill("my own prompt")

    view(studio, job).get_by_role("button", name="Seed").click()

    expect(value(studio, "Seed")).to_have_value("55")
    expect(studio.prompt).to_have_value("my own prompt")


def test_varying_changes_nothing_but_the_seed(sd: Stack, studio: Studio, job: dict[str, Any]) -> None:
    view(studio, job).get_by_role("button", name="Vary").click()

    expect(studio.made("a red house")).to_be_visible()
    newest = sd.api.get("/api/jobs?limit=1").json()["jobs"][0]
    assert newest["id"] != job["id"]
    assert newest["request"].pop("seed") != 55
    assert newest["request"] == {name: value for name, value in job["request"].items() if name != "seed"}


def test_the_copied_program_makes_the_image(sd: Stack, studio: Studio, job: dict[str, Any]) -> None:
    viewer = view(studio, job)
    viewer.get_by_role("button", name="Python").click()
    expect(studio.page.get_by_role("status")).to_have_text("Copied as Python")
    python = studio.page.evaluate("navigator.clipboard.readText()")

    done = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{sd.api.url}/api/jobs/[0-9a-f-]+/images/0\n", done.stdout)
    viewer.get_by_role("button", name="curl").click()
    expect(studio.page.get_by_role("status")).to_have_text("Copied as curl")
    curl = studio.page.evaluate("navigator.clipboard.readText()")
    answer = subprocess.run([BASH, "-c", curl], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["request"]["seed"] == 55


def test_the_copied_javascript_makes_the_image(sd: Stack, studio: Studio, job: dict[str, Any]) -> None:
    view(studio, job).get_by_role("button", name="JavaScript").click()
    expect(studio.page.get_by_role("status")).to_have_text("Copied as JavaScript")
    program = studio.page.evaluate("navigator.clipboard.readText()")

    with studio.page.expect_console_message() as printed:
        studio.page.evaluate(f"async () => {{ {program} }}")

    path = re.fullmatch(rf"{sd.api.url}(/api/jobs/[0-9a-f-]+)/images/0", printed.value.text)
    assert path is not None
    assert sd.api.get(path[1]).json()["request"] == job["request"]


def test_a_question_mark_lists_the_keys(studio: Studio) -> None:
    wait_until(lambda: studio.prompt.is_visible())
    studio.prompt.blur()

    studio.page.keyboard.press("?")

    keys = studio.page.get_by_role("dialog", name="Keys")
    keys.get_by_text("Generate").hover()
    # Selects text, and lets go of it beside the dialog.
    studio.page.mouse.down()
    studio.page.mouse.move(5, 5)
    studio.page.mouse.up()
    expect(keys).to_be_visible()
    studio.page.mouse.click(5, 5)
    expect(keys).to_have_count(0)
    expect(studio.page.get_by_role("dialog")).to_have_count(0)
