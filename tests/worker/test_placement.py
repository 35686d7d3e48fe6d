"""Which parts of a model are on the device, by what is free there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline

from tests.worker.drawing import draw
from tests.worker.klein import full_size, in_bfloat16, save_klein
from worker.backends import flux_local
from worker.backends.flux_local import FluxLocal, Options
from worker.backends.placement import Placement, choose, free_bytes, sizes_of
from worker.models.sources import Source

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

GB = 10**9
#: FLUX.2 Klein 4B in bfloat16.
KLEIN = {"transformer": int(7.75 * GB), "text_encoder": int(8.05 * GB), "vae": int(0.17 * GB)}


@pytest.mark.parametrize(
    ("card", "free", "placement"),
    [
        ("24 GB", 23 * GB, Placement.RESIDENT),
        ("20 GB", 19.5 * GB, Placement.RESIDENT),
        ("16 GB", 15.5 * GB, Placement.MODEL_OFFLOAD),
        ("12 GB", 11.6 * GB, Placement.MODEL_OFFLOAD),
        ("24 GB, half of it taken", 11 * GB, Placement.GROUP_OFFLOAD),
        ("8 GB", 7.5 * GB, Placement.GROUP_OFFLOAD),
        ("nothing", 0, Placement.GROUP_OFFLOAD),
    ],
)
def test_as_much_as_fits_stays_on_the_device(card: str, free: float, placement: Placement) -> None:
    assert choose(KLEIN, int(free)) is placement


def test_where_parts_cannot_wait_elsewhere_everything_is_on_the_device() -> None:
    assert choose(KLEIN, None) is Placement.RESIDENT
    assert free_bytes(torch.device("cpu")) is None


def test_the_parts_of_the_real_model_are_as_large_as_its_files() -> None:
    with in_bfloat16(), torch.device("meta"):
        sizes = sizes_of(full_size())

    assert {name: round(size / GB, 2) for name, size in sizes.items()} == {
        "transformer": 7.75,
        "text_encoder": 8.04,
        "vae": 0.17,
    }


def test_weights_that_two_layers_share_are_counted_once(tmp_path: Path) -> None:
    pipe = Flux2KleinPipeline.from_pretrained(save_klein(tmp_path), dtype=torch.bfloat16)

    sizes = sizes_of(pipe)

    assert set(sizes) == {"text_encoder", "transformer", "vae"}
    assert sizes["text_encoder"] < sum(tensor.nbytes for tensor in pipe.text_encoder.state_dict().values())


def test_layers_that_come_and_go_give_the_same_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Source("SD_FLUX_MODEL_ID", str(save_klein(tmp_path)), Path("unused")).find()
    resident = FluxLocal.load(model, Options(device="cpu"))
    monkeypatch.setattr(flux_local, "free_bytes", lambda _: 0)

    grouped = FluxLocal.load(model, Options(device="cpu"))

    assert grouped.placement == "group-offload"
    expected, made = (draw(one, width=128, height=64).pixels for one in (resident, grouped))
    assert np.array_equal(expected, made)
