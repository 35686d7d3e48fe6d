"""LoRAs for text encoders: what the old file has read is not used with the new one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft)")


def test_a_replaced_file_changes_how_the_same_prompt_is_read(tmp_path: Path) -> None:
    folder, loras = tiny.save_sd(tmp_path / "model"), tmp_path / "loras"
    loras.mkdir()
    encoder = StableDiffusionPipeline.from_pretrained(folder).text_encoder
    projections = [(path, layer) for path, layer in encoder.named_modules() if path.endswith(("q_proj", "v_proj"))]

    def save(seed: int) -> None:
        torch.manual_seed(seed)
        down = {f"text_encoder.{path}.lora_A.weight": torch.randn(2, layer.in_features) for path, layer in projections}
        up = {f"text_encoder.{path}.lora_B.weight": torch.randn(layer.out_features, 2) for path, layer in projections}
        save_file(down | up, loras / "mine.safetensors")

    save(1)
    model = loaded(folder, lora_dir=loras)
    before = draw(model, loras=[{"name": "mine"}]).pixels
    save(2)

    after = draw(model, loras=[{"name": "mine"}]).pixels

    assert not np.array_equal(after, before)
    assert np.array_equal(after, draw(loaded(folder, lora_dir=loras), loras=[{"name": "mine"}]).pixels)
