"""A typical repository, and a server for it."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from shared.errors import ConfigurationError
from tests.worker.models.hub import Hub, hub_serving
from worker.models.hub.downloads import Downloader

NAME, TOKEN = "someone/some-model", "hf_token"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "safety_checker": [None, None],
}
MEGABYTE = 1_000_000
WEIGHTS = "unet/diffusion_pytorch_model.fp16.safetensors"
#: The files of a download in half precision.
NEEDED = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
    "tokenizer/merges.txt",
    "tokenizer/chat_template.jinja",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
)
CLUTTER = (
    "README.md",
    ".gitattributes",
    "some-model.safetensors",
    "images/example.png",
    "safety_checker/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "text_encoder/pytorch_model.bin.index.json",
    "text_encoder/modeling_own.py",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/model.onnx",
)


def reach(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like the variable HF_ENDPOINT, which is read only once per process."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )


def weights(noise: random.Random) -> bytes:
    """A file of three megabytes with random numbers in half precision."""
    size = 3 * MEGABYTE - 8 - 92
    header = (
        json.dumps({"weight": {"dtype": "F16", "shape": [size // 2], "data_offsets": [0, size]}}).encode().ljust(92)
    )
    return len(header).to_bytes(8, "little") + header + noise.randbytes(size)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a repository: what a pipeline needs, and what it does not."""
    folder = tmp_path_factory.mktemp("published")
    noise = random.Random(0)
    for path in (*NEEDED, *CLUTTER):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(weights(noise) if path.endswith(".safetensors") else noise.randbytes(100))
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    (folder / "unet" / "config.json").write_text(json.dumps({"sample_size": 32}))
    for path in ("scheduler/scheduler_config.json", "text_encoder/config.json"):
        (folder / path).write_text("{}")
    return folder


@pytest.fixture
def hub(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_serving(NAME, published, TOKEN) as hub:
        reach(hub.url, monkeypatch)
        # The client writes in chunks of this size; the default is larger than these files.
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", MEGABYTE // 8)
        yield hub


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    reach("http://127.0.0.1:9", monkeypatch)


def fetch(
    folder: Path,
    token: str | None = TOKEN,
    dtype: str = "auto",
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> None:
    Downloader(token, dtype, on_progress).fetch(NAME, folder)


def refusal(folder: Path, token: str | None = TOKEN) -> str:
    with pytest.raises(ConfigurationError) as caught:
        fetch(folder, token)
    return caught.value.detail


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / NAME


@pytest.fixture
def cut(hub: Hub, folder: Path) -> Path:
    """A download that failed at its largest file."""
    hub.gone = {WEIGHTS}
    assert f"`imagegen models remove {NAME}`" in refusal(folder)
    hub.gone = set()
    hub.sent.clear()
    return folder
