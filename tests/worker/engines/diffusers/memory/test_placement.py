"""Which parts of a model stay on the device, depending on its free memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, Flux2KleinPipeline

from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.diffusers.flux.klein import full_size, in_bfloat16, save_klein
from tests.worker.engines.drawing import draw, right_half, speckled
from worker.engines.diffusers.loading import pipelines
from worker.engines.diffusers.memory import placement as module
from worker.engines.diffusers.memory.placement import free_bytes
from worker.engines.diffusers.memory.quantization import part_sizes
from worker.images.values import Inputs
from worker.models import placements
from worker.models.placements import Placement, choose_placement

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

GB = 10**9
#: FLUX.2 Klein 4B in bfloat16; Stable Diffusion XL and 1.5 in float16.
KLEIN = {"transformer": int(7.75 * GB), "text_encoder": int(8.05 * GB), "vae": int(0.17 * GB)}
XL = {
    "unet": int(5.14 * GB),
    "text_encoder": int(0.25 * GB),
    "text_encoder_2": int(1.39 * GB),
    "vae": int(0.17 * GB),
}
SD = {"unet": int(1.72 * GB), "text_encoder": int(0.25 * GB), "vae": int(0.17 * GB)}
WORKING = {
    "klein": dict.fromkeys(KLEIN, placements.WORKING_BYTES),
    "xl": {"unet": placements.UNET_BYTES, "vae": placements.AUTOENCODER_BYTES},
    "sd": {"unet": placements.UNET_BYTES // 4, "vae": placements.AUTOENCODER_BYTES // 4},
}
SIZES = {"klein": KLEIN, "xl": XL, "sd": SD}


@pytest.mark.parametrize(
    ("model", "card", "free", "placement"),
    [
        ("klein", "24 GB", 23, Placement.RESIDENT),
        ("klein", "20 GB", 19.5, Placement.RESIDENT),
        ("klein", "16 GB", 15.5, Placement.MODEL_OFFLOAD),
        ("klein", "12 GB", 11.6, Placement.MODEL_OFFLOAD),
        ("klein", "24 GB, half of it taken", 11, Placement.GROUP_OFFLOAD),
        ("klein", "8 GB", 7.5, Placement.GROUP_OFFLOAD),
        ("klein", "nothing", 0, Placement.GROUP_OFFLOAD),
        ("xl", "12 GB", 11.6, Placement.RESIDENT),
        ("xl", "8 GB", 7.5, Placement.MODEL_OFFLOAD),
        ("xl", "6 GB", 5.7, Placement.GROUP_OFFLOAD),
        ("sd", "4 GB", 3.6, Placement.RESIDENT),
        ("sd", "4 GB, some of it taken", 2.5, Placement.MODEL_OFFLOAD),
        ("sd", "2 GB", 1.8, Placement.GROUP_OFFLOAD),
    ],
)
def test_as_many_parts_as_fit_stay_on_the_device(model: str, card: str, free: float, placement: Placement) -> None:
    assert choose_placement(SIZES[model], int(free * GB), WORKING[model]) is placement


def test_without_offloading_everything_is_on_the_device() -> None:
    assert choose_placement(KLEIN, None, WORKING["klein"]) is Placement.RESIDENT
    assert free_bytes(torch.device("cpu")) is None


def test_what_torch_keeps_for_itself_is_room_for_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [0]
    monkeypatch.setattr(module, "free_bytes", lambda _: free[-1])
    monkeypatch.setattr(pipelines, "has_own_memory", lambda _: True)
    monkeypatch.setattr(pipelines, "free_memory", lambda: free.append(1 << 40))

    assert loaded(tiny.save_sd(tmp_path)).placement == "resident"


def test_full_size_parts_are_as_large_as_their_files() -> None:
    with in_bfloat16(), torch.device("meta"):
        sizes = part_sizes(full_size())

    assert {name: round(size / GB, 2) for name, size in sizes.items()} == {
        "transformer": 7.75,
        "text_encoder": 8.04,
        "vae": 0.17,
    }


def test_shared_weights_are_counted_once(tmp_path: Path) -> None:
    pipe = Flux2KleinPipeline.from_pretrained(save_klein(tmp_path), dtype=torch.bfloat16)

    sizes = part_sizes(pipe)

    assert set(sizes) == {"text_encoder", "transformer", "vae"}
    assert sizes["text_encoder"] < sum(tensor.nbytes for tensor in pipe.text_encoder.state_dict().values())


@pytest.mark.parametrize("placement", [Placement.MODEL_OFFLOAD, Placement.GROUP_OFFLOAD])
def test_every_placement_gives_the_same_images_in_every_mode(
    placement: Placement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.save_sdxl(tmp_path / "model")
    tiny.save_lora(tmp_path / "loras", "one", folder)
    resident = loaded(folder, lora_dir=tmp_path / "loras")
    with_room_for(placement, monkeypatch)
    model = loaded(folder, lora_dir=tmp_path / "loras")
    assert (resident.placement, model.placement) == ("resident", placement)
    init, masked = Inputs((speckled(),)), Inputs((speckled(),), right_half())

    fields = {"loras": [{"name": "one"}], "num_images": 2}
    for inputs, more in (
        (Inputs(), {}),
        (init, {}),
        (masked, fields),
        (init, fields),
        (Inputs(), fields),
        (init, {}),
    ):
        expected, made = draw(resident, inputs, **more), draw(model, inputs, **more)
        assert made.watch.warnings == []
        pairs = zip(expected.images, made.images, strict=True)
        assert all(np.array_equal(one.pixels, other.pixels) for one, other in pairs)


def test_a_broken_image_is_decoded_again_with_group_offloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_room_for(Placement.GROUP_OFFLOAD, monkeypatch)
    model = loaded(tiny.save_sd(tmp_path), dtype="bfloat16")
    decode = AutoencoderKL.decode

    def overflowing(vae: Any, latents: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        made = decode(vae, latents, *arguments, **named)
        if vae.dtype is torch.bfloat16:
            made[0].fill_(torch.nan)
        return made

    monkeypatch.setattr(AutoencoderKL, "decode", overflowing)

    assert draw(model).watch.warnings == ["the image came out black or broken: it was decoded again in float32"]


def with_room_for(placement: Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the device had just enough memory for this."""
    monkeypatch.setattr(module, "choose_placement", lambda *_: placement)
