"""The networks of upscalers: both kinds of the ESRGAN family."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

#: As ESRGAN was trained; its files do not contain it.
NEGATIVE_SLOPE = 0.2
RESIDUAL_SCALE = 0.2


class CompactNetwork(nn.Module):
    """The compact network of Real-ESRGAN (SRVGGNetCompact): convolutions at the size of the input, enlarged at the end.

    Names of parameters are those of published files: `body.0.weight` and so on.
    """

    def __init__(self, features: int, convolutions: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=1), nn.PReLU(features)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(features, features, 3, padding=1), nn.PReLU(features)]
        layers.append(nn.Conv2d(features, 3 * scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """From (1, 3, height, width), 0..1, to the same `scale` times as large."""
        enlarged: torch.Tensor = functional.pixel_shuffle(self.body(image), self.scale)
        return enlarged + functional.interpolate(image, scale_factor=self.scale, mode="nearest")


class _DenseBlock(nn.Module):
    conv5: nn.Conv2d

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for number in range(1, 6):
            outputs = features if number == 5 else growth
            setattr(self, f"conv{number}", nn.Conv2d(features + (number - 1) * growth, outputs, 3, padding=1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        known = features
        for number in range(1, 5):
            known = torch.cat((known, _activated(getattr(self, f"conv{number}")(known))), 1)
        last: torch.Tensor = self.conv5(known)
        return features + last * RESIDUAL_SCALE


class _ResidualBlock(nn.Module):
    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_DenseBlock(features, growth) for _ in range(3))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.rdb3(self.rdb2(self.rdb1(features)))
        return features + changed * RESIDUAL_SCALE


class ResidualDenseNetwork(nn.Module):
    """The network of ESRGAN (RRDBNet). Names of parameters are those of Real-ESRGAN's files."""

    def __init__(self, features: int, growth: int, blocks: int, doublings: int, unshuffle: int) -> None:
        """`doublings`: how often the size doubles; `unshuffle`: how much the input shrinks before the first layer."""
        super().__init__()
        self.scale = 2**doublings // unshuffle
        self.unshuffle = unshuffle
        self.conv_first = _convolution(3 * unshuffle**2, features)
        self.body = nn.Sequential(*(_ResidualBlock(features, growth) for _ in range(blocks)))
        self.conv_body = _convolution(features, features)
        self.conv_up = nn.ModuleList(_convolution(features, features) for _ in range(doublings))
        self.conv_hr = _convolution(features, features)
        self.conv_last = _convolution(features, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """From (1, 3, height, width), 0..1, to the same `scale` times as large; sides are multiples of `unshuffle`."""
        features = self.conv_first(functional.pixel_unshuffle(image, self.unshuffle))
        features = features + self.conv_body(self.body(features))
        for convolution in self.conv_up:
            features = _activated(convolution(functional.interpolate(features, scale_factor=2, mode="nearest")))
        enlarged: torch.Tensor = self.conv_last(_activated(self.conv_hr(features)))
        return enlarged


def _convolution(inputs: int, outputs: int) -> Any:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _activated(features: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(features, NEGATIVE_SLOPE)
