"""Requests without LoRAs, between others with some: the model is the one that was loaded, and compiled code fits it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft)")


def layers(module: torch.nn.Module) -> Iterator[tuple[Any, ...]]:
    """What the guards of compiled code compare."""
    for name, layer in module.named_modules():
        yield name, type(layer), id(layer), *(weight.requires_grad for weight in layer.parameters(recurse=False))


def test_the_model_has_exactly_the_layers_that_it_had_before_its_first_lora(tmp_path: Path) -> None:
    folder = tiny.save_sd(tmp_path)
    tiny.save_lora(tmp_path / "loras", "fine", folder)
    model = loaded(folder, lora_dir=tmp_path / "loras")
    denoiser, seen = model._pipelines.denoiser, list[list[Any]]()
    denoiser.register_forward_pre_hook(lambda *_: seen.append(list(layers(denoiser))))

    for loras in ([], [{"name": "fine"}], [], [{"name": "fine"}]):
        draw(model, num_inference_steps=1, loras=loras)

    before, with_lora, after, again = seen
    assert after == before
    assert again == with_lora
    assert any(issubclass(kind, BaseTunerLayer) for _, kind, *_ in with_lora)
