"""What a worker's start looks like to who watches it."""

from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.worker.hub import hub_serving
from tests.worker.jobs import made
from worker.models.sources import STARTER

NAME, TOKEN = "someone/starter-copy", "hf_token"


def entries(output: str) -> list[str]:
    """What follows the banner, up to the moment in which the worker is ready."""
    before, ready, _ = output.partition("ready.")
    return (before.rpartition(" key=generate.")[2] + ready).split("\n")[1:]


def test_the_log_of_a_start_is_free_of_other_libraries_noise(sd: Stack) -> None:
    messages = [line.split(maxsplit=2)[2] for line in entries(sd.worker.output) if line.strip()]

    loaded, connected, ready = messages
    assert loaded.startswith("starter is ready on cpu (float32) after ")
    assert connected.startswith("Connected to redis")
    assert ready.endswith("ready.")


def test_a_model_from_hugging_face_is_fetched_and_used(stack: Stack) -> None:
    with hub_serving(NAME, STARTER, TOKEN) as hub:
        stack.start_worker("sd", SD_MODEL_ID=NAME, SD_HUGGINGFACE_TOKEN=TOKEN, HF_ENDPOINT=hub.url)
    stack.start_api()

    job = made(stack, **RED_HEART, num_inference_steps=4)

    assert job["model"] == NAME
    assert list((stack.folder / "models").rglob("*.safetensors"))
    assert TOKEN not in stack.worker.output
