"""Single files draw what the same weights in diffusers' format draw, without a network."""

import os
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import pytest
import torch

from shared.errors import ConfigurationError
from tests.worker.conftest import alone
from tests.worker.engines.diffusers.checkpoints import original_layouts as original
from tests.worker.engines.diffusers.checkpoints.tiny_models import single_file, tiny_pipeline
from worker.engines.diffusers.checkpoints.loading import load_file_part
from worker.engines.diffusers.loading import pipeline_loading
from worker.engines.diffusers.loading.pipeline_loading import load_pipeline
from worker.models.local_model import LocalModel
from worker.models.sources import ModelSource

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")


def found(file: Path) -> LocalModel:
    return ModelSource("SD_MODEL_ID", str(file), file.parent).ensure_downloaded()


def loaded(model: LocalModel) -> Any:
    return load_pipeline(model, getattr(diffusers, model.pipeline_class), torch.float32, alone(model))


def drawn(pipe: Any, **arguments: Any) -> npt.NDArray[np.float32]:
    image: npt.NDArray[np.float32] = pipe(
        "a red fox!!, on a hill",
        width=64,
        height=64,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
        **arguments,
    ).images[0]
    return image


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl", "sd3", "flux1", "chroma", "z-image"])
def test_a_file_draws_the_same_pixels_as_the_same_weights_in_parts(family: str, tmp_path: Path) -> None:
    pipe = tiny_pipeline(family)
    model = found(original.write(tmp_path / "model.safetensors", *single_file(family, pipe)))

    image, expected = drawn(loaded(model)), drawn(pipe)

    assert model.base is None
    assert expected.std() > 0.1, "the image is not empty"
    # Where a matrix lies in memory changes the last bits of products.
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_a_file_for_inpainting_becomes_its_pipeline(tmp_path: Path) -> None:
    pipe = tiny_pipeline("sd15", "StableDiffusionInpaintPipeline", unet={"in_channels": 9})
    model = found(original.write(tmp_path / "model.safetensors", *single_file("sd15", pipe)))
    inputs = {"image": np.zeros((64, 64, 3), np.float32), "mask_image": np.ones((64, 64), np.float32)}

    image, expected = drawn(loaded(model), **inputs), drawn(pipe, **inputs)

    assert model.pipeline_class == "StableDiffusionInpaintPipeline"
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    parts = single_file("sd15", tiny_pipeline("sd15"))
    del parts[0]["model.diffusion_model.out.2.bias"]
    model = found(original.write(tmp_path / "model.safetensors", *parts))

    with pytest.raises(ConfigurationError) as caught:
        loaded(model)
    assert caught.value.detail == (
        f"The model {model.name} could not be loaded: its weights are incomplete: some of unet are missing."
    )


def test_a_file_that_is_swapped_while_it_is_loaded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = found(original.write(tmp_path / "model.safetensors", *single_file("sd15", tiny_pipeline("sd15"))))

    def swap(*arguments: Any) -> Any:
        os.utime(model.path, (1, 1))
        return load_file_part(*arguments)

    monkeypatch.setattr(pipeline_loading, "load_file_part", swap)
    with pytest.raises(ConfigurationError) as swapped:
        loaded(model)
    model.path.unlink()
    with pytest.raises(ConfigurationError) as removed:
        loaded(model)

    assert "changed while they were loaded" in swapped.value.detail
    assert "could not be loaded" in removed.value.detail


def test_a_transformer_without_its_other_parts_names_what_is_missing(tmp_path: Path) -> None:
    parts = single_file("flux1", tiny_pipeline("flux1"))[:1]
    file = original.write(tmp_path / "model.safetensors", *parts)

    with pytest.raises(ConfigurationError) as caught:
        found(file)

    assert "lacks vae and text_encoder and text_encoder_2 of FLUX.1: put a folder of that model" in caught.value.detail


@pytest.mark.parametrize("layout", ["prefixed", "bare"])
def test_a_transformer_takes_its_other_parts_from_a_base(layout: str, tmp_path: Path) -> None:
    base = tiny_pipeline("flux1")
    base.save_pretrained(tmp_path / "owner" / "base")
    pipe = tiny_pipeline("flux1")
    with torch.no_grad():
        pipe.transformer.proj_out.weight.mul_(-1)
    transformer = original.prefixed(
        "model.diffusion_model." if layout == "prefixed" else "", original.flux(pipe.transformer)
    )
    file = original.write(tmp_path / "mine.safetensors", transformer)
    (tmp_path / "mine.imagegen.json").write_text('{"base": "owner/base"}')

    model = found(file)
    image = drawn(loaded(model))

    assert (model.path, model.base) == (file, "owner/base")
    np.testing.assert_allclose(image, drawn(pipe), atol=1e-5)
    assert np.abs(image - drawn(base)).max() > 0.01, "the transformer is the file's, not that of the base"
