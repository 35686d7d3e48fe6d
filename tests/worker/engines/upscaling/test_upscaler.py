from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from shared.errors import ConfigurationError, OutOfMemory
from shared.jobs.requests import GenerationRequest
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Step
from worker.engines.upscaling.engine import UpscalingEngine
from worker.engines.upscaling.network_files import load_network
from worker.engines.upscaling.networks import ResidualDenseNetwork
from worker.engines.upscaling.upscaler import OVERLAP, TILES, Upscaler, tile_boxes
from worker.images.values import Inputs, Pixels
from worker.models.sources import UPSCALE_STARTER


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler.load(UPSCALE_STARTER, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def large_disc() -> Pixels:
    """A red disc on blue."""
    y, x = np.mgrid[:192, :256]
    inside = (np.hypot(x - 127.5, y - 95.5) < 66)[..., None]
    return np.where(inside, [230, 40, 40], [40, 90, 220]).astype(np.uint8)


@pytest.fixture(scope="module")
def disc(large_disc: Pixels) -> Pixels:
    """The same in a small image with soft edges, as models paint them."""
    return np.asarray(Image.fromarray(large_disc).filter(ImageFilter.GaussianBlur(3)).reduce(4))


def difference(first: Pixels, second: Pixels) -> float:
    return float(np.abs(first.astype(int) - second).mean())


def random_network(doublings: int = 2, unshuffle: int = 1) -> ResidualDenseNetwork:
    torch.manual_seed(0)
    return ResidualDenseNetwork(8, 4, 2, doublings, unshuffle)


def test_the_bundled_upscaler_restores_edges_better_than_resizing(
    upscaler: Upscaler, disc: Pixels, large_disc: Pixels
) -> None:
    resized = np.asarray(Image.fromarray(disc).resize((256, 192), Image.Resampling.LANCZOS))
    edge = np.abs(np.hypot(*(np.mgrid[:192, :256] - np.array([95.5, 127.5])[:, None, None])) - 66) < 5
    enlarged = upscaler.enlarge(disc)
    assert difference(enlarged, large_disc) < 4
    assert difference(enlarged[edge], large_disc[edge]) < 0.85 * difference(resized[edge], large_disc[edge])


def test_tiles_leave_no_seams(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 150, 3), np.uint8)
    whole = upscaler.enlarge(image)
    monkeypatch.setattr(upscaler, "_tile", TILES[-1])
    tiles: list[tuple[int, int]] = []
    assert np.abs(upscaler.enlarge(image, lambda *tile: tiles.append(tile)).astype(int) - whole).max() <= 1
    assert tiles == [(number, 6) for number in range(1, 7)]


def test_tiles_cover_every_pixel_once() -> None:
    covered = np.zeros((130, 257), int)
    for left, top, right, bottom in tile_boxes(257, 130, 64):
        assert max(right - left, bottom - top) <= 64
        covered[top:bottom, left:right] += 1
    assert (covered == 1).all()


def test_short_memory_makes_the_tiles_smaller(disc: Pixels) -> None:
    upscaler = Upscaler.load(UPSCALE_STARTER, torch.device("cpu"), torch.float32)
    sides = []

    def limit(_: object, arguments: tuple[torch.Tensor]) -> None:
        sides.append(max(arguments[0].shape))
        if sides[-1] > 128 + 2 * OVERLAP:
            raise torch.OutOfMemoryError("out of memory")

    upscaler._network.register_forward_pre_hook(limit)
    large = np.asarray(Image.fromarray(disc).resize((600, 40)))
    assert upscaler.enlarge(large).shape == (160, 2400, 3)
    assert sides[:2] == sorted(sides[:2], reverse=True)


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_networks_of_esrgan_enlarge_as_often_as_their_layers_say(tmp_path: Path, unshuffle: int) -> None:
    network = random_network(unshuffle=unshuffle)
    names = {
        f"{name}".replace("conv_up.0", "conv_up1").replace("conv_up.1", "conv_up2"): tensor
        for name, tensor in network.state_dict().items()
    }
    save_file(names, tmp_path / "real.safetensors")
    upscaler = Upscaler.load(tmp_path / "real.safetensors", torch.device("cpu"), torch.float32)
    image = np.full((9, 11, 3), 100, np.uint8)
    assert upscaler.enlarge(image).shape == (9 * 4 // unshuffle, 11 * 4 // unshuffle, 3)


def _first_publication(name: str) -> str:
    number = {"conv_first": "0", "conv_up.0": "3", "conv_up.1": "6", "conv_hr": "8", "conv_last": "10"}
    for new, old in number.items():
        name = name.replace(f"{new}.", f"model.{old}.")
    name = name.replace("conv_body.", "model.1.sub.2.")
    if name.startswith("body."):
        _, block, dense, convolution, kind = name.split(".")
        return f"model.1.sub.{block}.RDB{dense[-1]}.{convolution}.0.{kind}"
    return name


def _second_publication(name: str) -> str:
    replacements = {"conv_body": "trunk_conv", "body": "RRDB_trunk", "rdb": "RDB", "conv_hr": "HRconv"}
    if name.startswith("conv_up."):
        return name.replace("conv_up.0", "upconv1").replace("conv_up.1", "upconv2")
    for new, old in replacements.items():
        if new != "body" or name.startswith("body."):
            name = name.replace(new, old)
    return name


@pytest.mark.parametrize("published", [_first_publication, _second_publication])
def test_older_names_of_the_same_layers_are_read(tmp_path: Path, published: object) -> None:
    network = random_network()
    assert callable(published)
    renamed = {published(name): tensor for name, tensor in network.state_dict().items()}
    assert "conv_first.weight" not in renamed or published is _second_publication
    save_file(renamed, tmp_path / "old.safetensors")
    loaded = load_network(tmp_path / "old.safetensors").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "names",
    [
        {"unet.weight": (2, 2)},
        {"body.0.weight": (4, 3, 3, 3), "body.1.weight": (4,), "body.2.weight": (7,)},
        {"conv_first.weight": (4, 3, 3, 3), "body.900.rdb1.conv1.weight": (4, 4, 3, 3)},
        {"model.0.weight": (4, 3, 3, 3)},
        {"body.0.weight": (), "body.1.weight": (), "body.2.weight": ()},
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, names: dict[str, tuple[int, ...]]) -> None:
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in names.items()}, path)
    with pytest.raises(ConfigurationError, match=r"other\.safetensors is not an upscaler of the ESRGAN family"):
        load_network(path)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(UPSCALE_STARTER.read_bytes()[:2000])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_network(path)


def test_the_engine_makes_the_requested_size_and_reports_its_tiles(disc: Pixels) -> None:
    engine = UpscalingEngine.load("upscale-starter", UPSCALE_STARTER, "cpu")
    steps: list[Step] = []
    watch = RecordingWatch(on_step=steps.append)
    request = GenerationRequest(prompt="upscale", image=("sha256:" + "0" * 64,), seed=7, width=200, height=150)
    (image,) = engine.generate(request, Inputs([disc]), watch)
    assert image.pixels.shape == (150, 200, 3)
    assert [(step.step, step.steps) for step in steps] == [(1, 1)]


FULL = torch.OutOfMemoryError("CUDA out of memory")


def test_an_upscaler_that_does_not_fit_says_so_as_models_do(disc: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the worker evicts other models, or fails the job with a code that callers know."""

    def full(*_: object, **__: object) -> None:
        raise FULL

    engine = UpscalingEngine.load("upscale-starter", UPSCALE_STARTER, "cpu")
    request = GenerationRequest(prompt="upscale", image=("sha256:" + "0" * 64,), seed=7, width=200, height=150)
    engine._upscaler._network.register_forward_pre_hook(full)
    with pytest.raises(OutOfMemory):
        engine.generate(request, Inputs([disc]), RecordingWatch())
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(OutOfMemory):
        engine.move_to_device()
    with pytest.raises(OutOfMemory):
        UpscalingEngine.load("upscale-starter", UPSCALE_STARTER, "cpu")


def test_by_default_an_image_becomes_four_times_as_large_within_the_limits() -> None:
    engine = UpscalingEngine.load("upscale-starter", UPSCALE_STARTER, "cpu")
    request = GenerationRequest(prompt="upscale", image=("sha256:" + "0" * 64,))
    resolved, _ = engine.capabilities.resolve(request, (100, 50), 4_000_000)
    assert (resolved.width, resolved.height) == (400, 200)
    resolved, _ = engine.capabilities.resolve(request, (1000, 1000), 4_000_000)
    assert (resolved.width, resolved.height) == (2000, 2000)
