"""Whole U-Nets are compiled on GPUs; here, their graphs run as they are."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tests.worker.engines import tiny
from worker.engines.diffusers.acceleration import compiled_denoiser
from worker.engines.diffusers.acceleration.compiled_denoiser import MAX_STATIC_SHAPES

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore::Warning:(diffusers|torch)"),
]


@pytest.mark.parametrize(("shapes", "any_number"), [(2, False), (MAX_STATIC_SHAPES + 1, True)])
def test_a_whole_unet_has_code_for_each_shape_and_the_timesteps_of_every_scheduler(
    shapes: int, *, any_number: bool
) -> None:
    are_for_any_number = list[bool]()

    def compiler(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        are_for_any_number.append(any(isinstance(value, torch.SymInt) for value in inputs))
        return graph.forward

    sizes = {"block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2}
    unet = tiny.create_unet(**sizes, cross_attention_dim=8).eval()
    compiled = compiled_denoiser._compile(unet, torch.device("cuda"), compiler, shapes)
    assert compiled is not None

    def difference(images: int, timestep: int | float) -> float:
        latents, texts = torch.randn(images, 4, 16, 16), torch.randn(images, 5, 8)
        made, usual = (run(latents, torch.tensor(timestep), texts).sample for run in (compiled, unet))
        return float((made - usual).abs().max())

    assert max(difference(images, timestep) for images in (2, 8) for timestep in (981, 981.5)) < 1e-5
    assert are_for_any_number == [False, any_number]
    with torch.compiler.set_stance("eager_on_recompile"):
        assert difference(4, 981) < 1e-5
    assert len(are_for_any_number) == 2
