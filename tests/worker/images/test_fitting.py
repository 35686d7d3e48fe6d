"""Input images get the shape of the result, and masked parts something else to begin from."""

import numpy as np
import pytest
from PIL import Image

from shared.jobs.types import MaskFill, ResizeMode
from tests.worker.images.image_checks import Pixels
from worker.images.fitting import FittedImage, fill, fit
from worker.images.values import DecodedImage, Mask

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def stripes(width: int, height: int) -> Pixels:
    """Red, green and blue, each a third of the width."""
    image = Image.new("RGB", (width, height), GREEN)
    image.paste(RED, (0, 0, width // 3, height))
    image.paste(BLUE, (width - width // 3, 0, width, height))
    return np.asarray(image)


def colours(pixels: Pixels) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in pixels.reshape(-1, 3)}


def test_a_cropped_image_is_its_middle() -> None:
    cropped = fit(stripes(300, 100), (64, 64), ResizeMode.CROP)

    assert cropped.shape == (100, 100, 3)
    assert colours(cropped) == {GREEN}
    assert fit(stripes(300, 100), (300, 50), ResizeMode.CROP).shape == (50, 300, 3)


def test_a_filled_image_is_whole_and_its_edges_go_on() -> None:
    filled = fit(stripes(300, 100), (150, 150), ResizeMode.FILL)

    assert filled.shape == (150, 150, 3)
    for row in (0, 50, 75, 149):
        assert [tuple(filled[row, column]) for column in (10, 75, 140)] == [RED, GREEN, BLUE]


def test_a_stretched_image_is_left_to_the_model() -> None:
    image = stripes(300, 100)

    assert fit(image, (64, 64), ResizeMode.STRETCH) is image


@pytest.mark.parametrize("mode", ResizeMode)
@pytest.mark.parametrize("given", [(300, 100), (100, 300), (1, 4000), (4000, 1), (64, 64)])
@pytest.mark.parametrize("wanted", [(64, 64), (512, 16), (16, 512)])
def test_a_mask_gets_the_shape_of_its_image(mode: ResizeMode, given: tuple[int, int], wanted: tuple[int, int]) -> None:
    image = np.zeros((given[1], given[0], 3), np.uint8)

    fitted = fit(image, wanted, mode)

    assert fit(image[..., 0], wanted, mode).shape == fitted.shape[:2]
    assert FittedImage(DecodedImage(image), wanted, mode).size == fitted.shape[1::-1]
    assert fitted.size <= max(image.size, 3 * wanted[0] * wanted[1])


def masked(kind: MaskFill, seed: int = 0) -> tuple[Pixels, Mask, Pixels]:
    """A red square in a green image: the image, its mask, and the image with the square filled."""
    image, mask = np.full((100, 200, 3), GREEN, np.uint8), np.zeros((100, 200), np.uint8)
    image[30:70, 50:90], mask[30:70, 50:90] = RED, 255
    return image, mask, fill(image, mask, kind, seed)


@pytest.mark.parametrize("kind", MaskFill)
def test_what_is_not_masked_stays(kind: MaskFill) -> None:
    image, mask, filled = masked(kind)

    assert (filled[mask == 0] == image[mask == 0]).all()


def test_masked_parts_get_the_colours_around_them() -> None:
    _, mask, filled = masked(MaskFill.SURROUNDINGS)

    assert np.abs(filled[mask > 0].astype(int) - GREEN).max() <= 4


def test_near_colours_count_more_than_far_ones() -> None:
    image, mask = np.full((100, 200, 3), BLUE, np.uint8), np.zeros((100, 200), np.uint8)
    image[:, :100], mask[30:70, 80:120] = RED, 255

    filled = fill(image, mask, MaskFill.SURROUNDINGS, 0).astype(int)

    assert filled[50, 81, 0] > 200 > 100 > filled[50, 81, 2]
    assert filled[50, 118, 2] > 200 > 100 > filled[50, 118, 0]


def test_a_mask_without_surroundings_changes_nothing() -> None:
    image = stripes(60, 20)

    assert (fill(image, np.full((20, 60), 255, np.uint8), MaskFill.SURROUNDINGS, 0) == image).all()


def test_noise_follows_the_seed() -> None:
    (_, mask, first), (_, _, again), (_, _, other) = (masked(MaskFill.NOISE, seed) for seed in (1, 1, 2))

    assert (first == again).all()
    assert (first[mask > 0] != other[mask > 0]).any()
    assert first[mask > 0].std() > 30


def test_grey_and_the_original_are_what_they_say() -> None:
    (image, mask, original), (_, _, grey) = masked(MaskFill.ORIGINAL), masked(MaskFill.GREY)

    assert (original == image).all()
    assert colours(grey[mask > 0]) == {(127, 127, 127)}


def test_the_softened_edge_of_a_mask_keeps_its_pixels() -> None:
    image, mask = stripes(60, 20), np.zeros((20, 60), np.uint8)
    mask[:, 20:40], mask[:, 40:44] = 255, 100

    grey = fill(image, mask, MaskFill.GREY, 0)

    assert (grey[:, 40:] == image[:, 40:]).all()
    assert (grey[:, 20:40] == 127).all()
