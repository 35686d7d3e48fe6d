"""Reads the network of an upscaler from a safetensors file, whichever naming of the ESRGAN family it has."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from shared.errors import ConfigurationError
from worker.engines.upscaling.networks import CompactNetwork, ResidualDenseNetwork

Network = CompactNetwork | ResidualDenseNetwork
Weights = Mapping[str, torch.Tensor]

#: Limits for what a file may ask this process to allocate.
MAX_BLOCKS, MAX_SCALE = 64, 8
_UNKNOWN = "is not an upscaler of the ESRGAN family (ESRGAN, Real-ESRGAN, or their compact form)."


def load_network(path: Path) -> Network:
    """On the CPU, in float32. Raises ConfigurationError."""
    with _reading(path):
        weights = load_file(path)
    with _recognising(path):
        network = _network({name: tensor.float() for name, tensor in weights.items()})
    return network.eval().requires_grad_(False)


def scale_of(path: Path) -> int:
    """How many times the upscaler enlarges. Reads no weights. Raises ConfigurationError."""
    with _reading(path), safe_open(path, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a dict
    with _recognising(path), torch.device("meta"):
        return _network({name: torch.empty(shape) for name, shape in shapes.items()}).scale


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"The upscaler {path.name} cannot be read: {error}") from None


@contextmanager
def _recognising(path: Path) -> Iterator[None]:
    """A file of something else has other names or other shapes."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError):
        raise ConfigurationError(f"{path.name} {_UNKNOWN}") from None


def _network(weights: Weights) -> Network:
    weights = _real_esrgan_names(weights)
    network = _compact(weights) if "body.1.weight" in weights else _residual_dense(weights)
    network.load_state_dict(weights)
    return network


def _compact(weights: Weights) -> CompactNetwork:
    last = max(int(name.split(".")[1]) for name in weights)
    scale = round((len(weights[f"body.{last}.weight"]) / 3) ** 0.5)
    _require(last // 2 <= MAX_BLOCKS and 1 <= scale <= MAX_SCALE)
    return CompactNetwork(len(weights["body.0.weight"]), last // 2 - 1, scale)


def _residual_dense(weights: Weights) -> ResidualDenseNetwork:
    features, channels = weights["conv_first.weight"].shape[:2]
    blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("body."))
    doublings = sum(re.fullmatch(r"conv_up\.\d+\.weight", name) is not None for name in weights)
    unshuffle = round((channels / 3) ** 0.5)
    growth = len(weights["body.0.rdb1.conv1.weight"])
    _require(blocks <= MAX_BLOCKS and doublings <= 3 and unshuffle in (1, 2, 4) and 2**doublings >= unshuffle)
    return ResidualDenseNetwork(features, growth, blocks, doublings, unshuffle)


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("the network is larger than any published one")


def _real_esrgan_names(weights: Weights) -> dict[str, torch.Tensor]:
    """The names of Real-ESRGAN in place of those of ESRGAN's first and second publication."""
    if "model.0.weight" in weights:
        return _from_first_publication(weights)
    replacements = {"RRDB_trunk.": "body.", "trunk_conv.": "conv_body.", "HRconv.": "conv_hr.", ".RDB": ".rdb"}
    renamed = {}
    for name, tensor in weights.items():
        for old, new in replacements.items():
            name = name.replace(old, new)
        renamed[re.sub(r"^(?:conv_up|upconv)(\d)\.", lambda match: f"conv_up.{int(match[1]) - 1}.", name)] = tensor
    return renamed


def _from_first_publication(weights: Weights) -> dict[str, torch.Tensor]:
    """Layers are numbered: the first one, the blocks, one for each doubling, and two at the end."""
    numbers = sorted({int(name.split(".")[1]) for name in weights} - {0, 1})
    *doublings, before_last, last = numbers
    names = {0: "conv_first", before_last: "conv_hr", last: "conv_last"}
    names |= {number: f"conv_up.{index}" for index, number in enumerate(doublings)}
    renamed = {}
    for name, tensor in weights.items():
        block = re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(\w+)", name)
        if block is not None:
            renamed["body.{}.rdb{}.conv{}.{}".format(*block.groups())] = tensor
        elif name.startswith("model.1.sub."):
            renamed[f"conv_body.{name.rpartition('.')[2]}"] = tensor
        else:
            _, number, kind = name.split(".")
            renamed[f"{names[int(number)]}.{kind}"] = tensor
    return renamed
