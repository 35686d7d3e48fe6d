"""Weights in eight bits, averages of weights, and the naming of several tools."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from worker.engines.diffusers.checkpoints.loading import read_part
from worker.models.checkpoints.tensor_names import Role

NAMES = (
    "input_blocks.0.0.weight",
    "input_blocks.3.0.op.bias",
    "input_blocks.11.0.in_layers.0.weight",
    "input_blocks.1.1.transformer_blocks.10.attn1.to_q.weight",
    "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight",
    "input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.bias",
    "input_blocks.1.1.transformer_blocks.0.norm3.weight",
    "middle_block.1.proj_in.weight",
    "output_blocks.2.1.conv.weight",
    "output_blocks.10.0.skip_connection.weight",
    "label_emb.0.2.weight",
    "time_embed.2.bias",
    "out.2.weight",
)


def read(path: Path, tensors: dict[str, torch.Tensor], role: Role = Role.DENOISER) -> dict[str, torch.Tensor]:
    save_file(tensors, path / "model.safetensors")
    return read_part(path / "model.safetensors", role, torch.bfloat16)


def test_averages_count_in_files_that_have_nothing_else(tmp_path: Path) -> None:
    numbered = {name: torch.tensor([float(number)]) for number, name in enumerate(NAMES)}
    flat = {f"model_ema.diffusion_model{name.replace('.', '')}": tensor for name, tensor in numbered.items()}

    assert read(tmp_path, flat) == numbered


def test_averages_do_not_count_beside_ordinary_weights(tmp_path: Path) -> None:
    averages = {"model_ema.diffusion_modelout2weight": torch.zeros(1)}

    assert read(tmp_path, {"model.diffusion_model.out.2.weight": torch.ones(1), **averages}) == {
        "out.2.weight": torch.ones(1)
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_weights_are_read_in_the_precision_of_the_model(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = read(tmp_path, {"double_blocks.0.img_mod.lin.weight": torch.ones(2).to(dtype)})

    assert tensors["double_blocks.0.img_mod.lin.weight"].dtype is torch.bfloat16


@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
def test_eight_bit_weights_are_widened_and_scaled(ending: str, tmp_path: Path) -> None:
    weights = {
        "model.diffusion_model.img_in.weight": torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn),
        f"model.diffusion_model.img_in.{ending}": torch.tensor(3.0),
        "model.diffusion_model.img_in.input_scale": torch.tensor(1.0),
        "model.diffusion_model.txt_in.weight": torch.tensor([0.5]).to(torch.float8_e5m2),
    }

    tensors = read(tmp_path, weights)

    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "img_in.weight": [3.0, -6.0],
        "txt_in.weight": [0.5],
    }
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "role", "inner"),
    [
        (
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            Role.CLIP_L,
            "text_model.final_layer_norm.bias",
        ),
        ("cond_stage_model.transformer.fc1.bias", Role.CLIP_L, "text_model.fc1.bias"),
        ("cond_stage_model.model.ln_final.bias", Role.CLIP_H, "ln_final.bias"),
        ("conditioner.embedders.1.model.ln_final.bias", Role.CLIP_G, "ln_final.bias"),
        ("text_encoders.t5xxl.transformer.shared.weight", Role.T5, "shared.weight"),
        ("first_stage_model.decoder.conv_in.bias", Role.VAE, "decoder.conv_in.bias"),
        ("vae.decoder.conv_in.bias", Role.VAE, "decoder.conv_in.bias"),
    ],
)
def test_each_tool_s_names_are_understood(name: str, role: Role, inner: str, tmp_path: Path) -> None:
    assert list(read(tmp_path, {name: torch.ones(1)}, role)) == [inner]
