"""Transformers in GGUF files, on the folder of a base model."""

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from shared.errors import ConfigurationError
from shared.models.catalogue import ModelState
from shared.settings.explanations import install_command
from tests.worker.engines.diffusers.checkpoints import original_layouts as original
from tests.worker.engines.diffusers.checkpoints.test_single_files import drawn, found, loaded
from tests.worker.engines.diffusers.checkpoints.tiny_models import tiny_pipeline
from worker.models.catalogue import Catalogue

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|gguf)")


def write_gguf(file: Path, tensors: original.Tensors) -> None:
    """Matrices in eight bits, as such files are published."""
    writer = gguf.GGUFWriter(file, "flux")
    for name, tensor in tensors.items():
        array = tensor.float().numpy()
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            quantized = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rounded(tensors: torch.nn.Module) -> None:
    """Give the weights the values that eight bits have room for."""
    with torch.no_grad():
        for weights in tensors.parameters():
            if weights.ndim == 2 and weights.shape[1] % 32 == 0:
                kind = gguf.GGMLQuantizationType.Q8_0
                weights.copy_(
                    torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weights.numpy(), kind), kind))
                )


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A GGUF file with another transformer than its base has."""
    base = tiny_pipeline("flux1")
    base.save_pretrained(tmp_path / "owner" / "base")
    with torch.no_grad():
        base.transformer.proj_out.weight.mul_(-1)
    file = tmp_path / "mine.gguf"
    write_gguf(file, original.flux(base.transformer))
    (tmp_path / "mine.imagegen.json").write_text('{"base": "owner/base"}')
    return file


def test_a_gguf_file_on_a_base_draws_with_its_own_transformer(pair: Path) -> None:
    model = found(pair)
    image = drawn(loaded(model))

    expected = tiny_pipeline("flux1")
    with torch.no_grad():
        expected.transformer.proj_out.weight.mul_(-1)
    rounded(expected.transformer)
    assert model.base is not None
    np.testing.assert_allclose(image, drawn(expected), atol=1e-3)


def test_a_gguf_file_is_listed_with_its_base(pair: Path) -> None:
    entry = Catalogue(pair.parent, settling_seconds=0).scan()["mine"]

    assert entry.state is ModelState.AVAILABLE
    assert entry.model is not None
    assert entry.model.base == "owner/base"


def test_a_gguf_file_without_a_base_says_how_to_name_one(tmp_path: Path) -> None:
    write_gguf(tmp_path / "mine.gguf", {"img_in.weight": torch.ones(32, 32)})

    entry = Catalogue(tmp_path, settling_seconds=0).scan()["mine"]

    assert entry.state is ModelState.MISSING
    assert entry.reason == (
        "A GGUF file holds only the transformer: name its base model in mine.imagegen.json beside it, as "
        '{"base": "owner/name"}.'
    )


def test_without_the_library_a_gguf_file_says_what_to_install(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(ConfigurationError) as caught:
        loaded(found(pair))

    assert f"GGUF files need the package gguf: {install_command('gguf')}" in caught.value.detail
