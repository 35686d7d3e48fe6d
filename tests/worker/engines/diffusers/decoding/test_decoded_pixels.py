"""What leaves the device: the pixels that numpy would compute, three bytes each, and whether they are sound."""

import numpy as np
import pytest
import torch

from tests.worker.engines.diffusers.devices import ON_EACH_DEVICE
from worker.engines.diffusers.decoding.pixels import decoded_pixels
from worker.images.values import Pixels

pytestmark = pytest.mark.parametrize("device", ON_EACH_DEVICE)


def in_numpy(image: torch.Tensor) -> Pixels:
    values = (image / 2 + 0.5)[0].permute(1, 2, 0).float().cpu().numpy()
    pixels: Pixels = (values * 255).round().clip(0, 255).astype(np.uint8)
    return pixels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pixels_are_those_of_numpy(dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    # Also values beyond the visible range, and the exact halves between two colours.
    halves = (torch.arange(255) + 0.5) / 255 * 2 - 1
    image = torch.cat([torch.randn(3 * 64 * 64 - 255) * 1.2, halves]).reshape(1, 3, 64, 64).to(dtype)

    decoded = decoded_pixels(image.to(device))

    assert decoded.is_sound
    assert decoded.pixels.dtype == np.uint8
    assert np.array_equal(decoded.pixels, in_numpy(image))


@pytest.mark.parametrize("value", [0.0, -1.0, -7.0, float("nan"), float("inf")])
def test_a_single_colour_is_not_sound(value: float, device: str) -> None:
    assert not decoded_pixels(torch.full((1, 3, 8, 8), value, device=device)).is_sound


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_single_broken_value_is_enough_to_be_unsound(value: float, device: str) -> None:
    image = torch.randn(1, 3, 8, 8, device=device)
    assert decoded_pixels(image).is_sound
    image[0, 1, 2, 3] = value

    assert not decoded_pixels(image).is_sound


def test_the_image_of_a_caller_is_left_as_it_is(device: str) -> None:
    image = torch.randn(1, 3, 8, 8, device=device)
    before = image.clone()

    decoded_pixels(image)

    assert torch.equal(image, before)


def test_earlier_pixels_stay_when_later_ones_arrive(device: str) -> None:
    images = [torch.randn(1, 3, 32, 32, device=device) for _ in range(8)]

    arrays = [decoded_pixels(image).pixels for image in images]

    assert all(np.array_equal(array, in_numpy(image)) for array, image in zip(arrays, images, strict=True))
