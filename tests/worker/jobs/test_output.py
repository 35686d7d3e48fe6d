"""What a request says of the finished image: its size, and the quality of its file."""

import numpy as np
import pytest
from PIL import Image

from shared.jobs.states import State
from tests.api.images import encoded, half_mask, scene
from tests.worker.bench import Bench, canvas, speckled, wake
from tests.worker.images.image_checks import Pixels, opened, pixels
from worker.engines.null import NullEngine


def halves(left: int, right: int) -> Pixels:
    pixels = np.full((64, 64, 3), left, np.uint8)
    pixels[:, 32:] = right
    return pixels


def test_a_finished_image_is_scaled_to_the_output_size(bench: Bench) -> None:
    job = bench.submit(width=64, height=64, output_width=160, output_height=160)

    done = bench.run(job, canvas(halves(10, 200)))

    assert (done.images[0].width, done.images[0].height) == (160, 160)
    drawn = bench.pixels(done)
    assert drawn.shape == (160, 160, 3)
    assert (drawn[:, :70] < 30).all()
    assert (drawn[:, 90:] > 180).all()


@pytest.mark.parametrize("size", [(320, 128), (128, 320), (127, 320)])
def test_an_image_of_another_shape_is_extended_and_stays_whole(bench: Bench, size: tuple[int, int]) -> None:
    square = np.full((64, 64, 3), (20, 40, 200), np.uint8)
    square[20:44, 20:44] = (220, 30, 30)
    job = bench.submit(width=64, height=64, output_width=size[0], output_height=size[1])

    drawn = bench.pixels(bench.run(job, canvas(square)))

    assert drawn.shape == (size[1], size[0], 3)
    red = drawn[..., 0] > 128
    # Still a square, in the middle, and twice as large.
    extents = [np.ptp(np.flatnonzero(red.any(axis=axis))) for axis in (0, 1)]
    assert extents == pytest.approx([47, 47], abs=2)
    assert red[size[1] // 2, size[0] // 2]
    assert abs(drawn[~red].astype(int) - (20, 40, 200)).max(axis=1).mean() < 8


def test_what_was_made_from_an_image_is_stretched_back(bench: Bench) -> None:
    image = encoded(scene(320, 128))
    job = bench.submit([image], width=64, height=64, output_width=320, output_height=128, strength=0.01)

    drawn = bench.pixels(bench.run(job))

    assert abs(drawn.astype(int) - pixels(image)).mean() < 12


def test_a_size_that_the_model_does_not_make_well_is_made_at_another(bench: Bench) -> None:
    done = bench.run(bench.submit(width=300, height=300, fit_size=True))

    assert (done.request.width, done.request.output_width, done.images[0].width) == (64, 300, 300)
    assert done.warnings == ("rendered at 64x64, which suits null, and scaled to 300x300",)


def test_metadata_has_both_sizes(bench: Bench) -> None:
    done = bench.run(bench.submit(width=300, height=300, fit_size=True))

    (path,) = (path for path in bench.files if path.name.startswith(done.id))
    text = opened(path.read_bytes()).info["parameters"]
    assert "Size: 64x64" in text
    assert "Postprocess upscale to: 300x300" in text


def test_jobs_with_different_output_sizes_share_a_batch(bench: Bench) -> None:
    jobs = [bench.submit(width=size, height=size, fit_size=True) for size in (200, 300)]

    wake(bench.runner(NullEngine(), max_batch_size=4))

    done = [bench.read(job) for job in jobs]
    assert [job.timings.batch_size for job in done] == [2, 2]
    assert [job.images[0].width for job in done] == [200, 300]


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_less_quality_is_a_smaller_file(bench: Bench, output_format: str) -> None:
    sizes = [
        bench.run(bench.submit(output_format=output_format, output_quality=quality), canvas(speckled(64, 64))).images[0]
        for quality in (10, None, 100)
    ]

    low, default, high = (image.bytes or 0 for image in sizes)
    assert low < default < high


def test_a_mask_can_mark_by_transparency(bench: Bench) -> None:
    mask = Image.new("RGBA", (64, 64), (255, 255, 255, 255))
    mask.paste((255, 255, 255, 0), (0, 0, 32, 64))
    image = encoded(Image.new("RGB", (64, 64), (90, 90, 90)))

    done = bench.run(bench.submit([image], encoded(mask), mask_mode="transparent", strength=1))

    drawn = bench.pixels(done)
    assert (drawn[:, 32:] == 90).all()
    assert (drawn[:, :32] != 90).any()


@pytest.mark.parametrize("mask", [encoded(half_mask(64, 64)), encoded(scene(64, 64), "JPEG")])
def test_a_mask_without_transparency_is_refused_by_name(bench: Bench, mask: bytes) -> None:
    done = bench.run(bench.submit([encoded(scene(64, 64))], mask, mask_mode="transparent"))

    assert done.state is State.FAILED
    assert done.error is not None
    assert "no transparent pixels" in done.error.detail
