"""Workers decode input images to upright RGB, or refuse them."""

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.jobs.job import Job
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import MaskMode
from tests.api.images import encoded, half_mask, noise_png, png_claiming, scene
from tests.worker.bench import Bench
from tests.worker.images.image_checks import Pixels
from worker.engines.base import JobWatch
from worker.images.inputs import InputReader
from worker.images.values import Inputs, RenderedImage

_numbers = itertools.count()
SCENE = np.asarray(scene())


@pytest.fixture
def bench(redis_url: str, tmp_path: Path) -> Bench:
    return Bench(redis_url, f"inputs{next(_numbers)}:", tmp_path / "outputs")


@pytest.fixture
def read(bench: Bench) -> Callable[..., Inputs]:
    def read(image: bytes, mask: bytes | None = None) -> Inputs:
        return InputReader(bench.inputs, max_pixels=10**6).inputs(bench.submit([image], mask))

    return read


def close(one: Pixels, other: Pixels) -> bool:
    return one.shape == other.shape and bool(np.abs(one.astype(int) - other).mean() < 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", [0, *range(1, 10)])
def test_an_image_is_rotated_by_its_exif_orientation(read: Callable[..., Inputs], kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = scene()
    stored = shown
    for turn, opposite in {
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
        7: "TRANSVERSE",
        8: "ROTATE_270",
    }.items():
        if turn == orientation:
            stored = shown.transpose(Image.Transpose[opposite])

    inputs = read(encoded(stored, kind, exif=exif, quality=95))

    assert close(inputs.images[0], SCENE)


def test_every_colour_mode_becomes_rgb(read: Callable[..., Inputs]) -> None:
    grey = scene().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for stored, expected in [
        (encoded(scene().convert("P", palette=Image.Palette.ADAPTIVE)), SCENE),
        (encoded(scene().convert("CMYK"), "JPEG", quality=95), SCENE),
        (encoded(grey), np.asarray(grey.convert("RGB"))),
        (encoded(deep), np.asarray(grey.convert("RGB"))),
        (encoded(grey.convert("1")), np.asarray(grey.convert("1").convert("RGB"))),
        (encoded(scene(), "JPEG", progressive=True, quality=95), SCENE),
        (encoded(scene(), "WEBP", lossless=True), SCENE),
    ]:
        assert close(read(stored).images[0], expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(read: Callable[..., Inputs], mode: str) -> None:
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    stored = clear.convert(mode) if mode != "P" else clear.convert("RGB").convert("P")
    options: dict[str, Any] = {"transparency": 0} if mode == "P" else {}

    assert (read(encoded(stored, **options)).images[0] == 255).all()


def test_a_mask_becomes_black_and_white(read: Callable[..., Inputs]) -> None:
    soft = Image.linear_gradient("L").resize((96, 64))

    mask = read(encoded(scene()), encoded(soft)).mask

    assert mask is not None
    assert set(np.unique(mask)) == {0, 255}
    assert mask.shape == (64, 96)
    assert (mask[:30] == 0).all()
    assert (mask[-30:] == 255).all()


@pytest.mark.parametrize("mode", ["white", "black"])
def test_a_mask_marks_white_or_black(bench: Bench, mode: str) -> None:
    mask = mask_of(bench, half_mask(), mask_mode=MaskMode(mode), mask_blur=0)

    assert set(np.unique(mask)) == {0, 255}
    assert (mask[:, 48:] == (255 if mode == "white" else 0)).all()


def test_the_edge_of_a_mask_is_softened(bench: Bench) -> None:
    hard, soft = (mask_of(bench, half_mask(), mask_blur=radius) for radius in (0, 4))

    assert set(np.unique(hard)) == {0, 255}
    assert len(np.unique(soft)) > 10
    assert (soft[:, :30] == 0).all()
    assert (soft[:, -30:] == 255).all()


def mask_of(bench: Bench, image: Image.Image, **fields: object) -> Pixels:
    job = bench.submit([encoded(scene())], encoded(image))
    job = job.model_copy(update={"request": job.request.model_copy(update=fields)})
    mask = InputReader(bench.inputs, max_pixels=10**6).inputs(job).mask
    assert mask is not None
    return mask


def test_transparent_pixels_of_a_mask_are_kept(read: Callable[..., Inputs]) -> None:
    strokes = Image.new("RGBA", (96, 64), (0, 0, 0, 0))
    strokes.paste((255, 255, 255, 255), (0, 0, 10, 10))

    mask = read(encoded(scene()), encoded(strokes)).mask

    assert mask is not None
    assert (mask > 0).sum() == 100


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_another_size(png: bytes) -> bytes:
    """A second header right after the first: decoders believe the last one."""
    return png[:33] + chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)) + png[33:]


def damaged(png: bytes) -> bytes:
    middle = len(png) // 2
    return png[:middle] + bytes(100) + png[middle + 100 :]


@pytest.mark.parametrize(
    "data",
    [
        with_another_size(encoded(scene())),
        png_claiming(900, 900),
        damaged(noise_png(96, 64)),
        encoded(scene(), "JPEG")[:-200],
        damaged(encoded(scene(), "WEBP", lossless=True, quality=0)),
        encoded(scene(), "JPEG")[:20] + b"\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00" + bytes(50),
        b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x0f\0\0\x0f\0\0",
        encoded(scene().convert("P")).replace(b"PLTE", b"plTe"),
    ],
    ids=["two sizes", "too little", "damaged", "cut off", "webp", "no jpeg", "empty webp", "no palette"],
)
def test_an_image_that_cannot_be_decoded_fails_the_job(bench: Bench, data: bytes) -> None:
    job = bench.run(bench.submit([data]))

    assert job.error is not None
    assert (job.state, job.error.code, job.error.retryable) == ("failed", "invalid-image", False)
    assert bench.files == []


def test_an_image_that_is_too_large_fails_the_job(bench: Bench) -> None:
    job = bench.run(bench.submit([png_claiming(60_000, 10_000)]))

    assert job.error is not None
    assert job.error.code == "invalid-image"
    assert "60000x10000" in job.error.detail


@pytest.mark.parametrize("mask", [encoded(half_mask(64, 64)), encoded(Image.new("L", (96, 64), 0))])
def test_a_mask_that_does_not_fit_fails_the_job(bench: Bench, mask: bytes) -> None:
    job = bench.run(bench.submit([encoded(scene())], mask))

    assert job.error is not None
    assert job.error.code == "invalid-image"


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(encoded(half_mask())), lambda file: file.unlink()])
def test_an_image_that_changed_in_storage_fails_the_job(bench: Bench, damage: Callable[[Path], None]) -> None:
    job = bench.submit([encoded(scene())])
    damage(bench.files[0])

    ended = bench.run(job)

    assert ended.error is not None
    assert ended.error.code == "invalid-image"


def fail(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
    raise RuntimeError


@pytest.mark.parametrize("drawing", [None, fail])
def test_input_images_are_deleted_with_the_end_of_their_job(
    bench: Bench, drawing: Callable[..., Sequence[RenderedImage]] | None
) -> None:
    ended = bench.run(bench.submit([encoded(scene())], encoded(half_mask())), drawing)

    assert ended.state.is_terminal
    assert [file.suffix for file in bench.files] == ([] if drawing else [".png"])
    assert list(bench.inputs.list_folders()) == []


def test_input_images_stay_while_their_job_may_run_again(bench: Bench) -> None:
    queued = bench.requeue(bench.start(bench.submit([encoded(scene())], strength=0.001)))

    done = bench.run(queued)

    assert (done.state, done.attempt) == ("succeeded", 2)
    assert (done.images[0].width, done.images[0].height) == (96, 64)


def test_input_images_of_a_lost_job_stay(bench: Bench) -> None:
    job = bench.submit([encoded(scene())])

    def draw(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        bench.start(bench.requeue(bench.read(job)))
        return []

    bench.work(draw)

    assert [folder.job_id for folder in bench.inputs.list_folders()] == [job.id]


def test_a_job_past_its_deadline_leaves_no_input_images(bench: Bench) -> None:
    job = bench.submit([encoded(scene())], deadline_seconds=1)
    late = Bench(bench.redis_url, bench.prefix, bench.folder, now=lambda: job.created_at.replace(year=2100))

    assert late.run(job).state == "failed"
    assert list(bench.inputs.list_folders()) == []


def landscape(bench: Bench, **fields: Any) -> Job:
    return bench.run(bench.submit([encoded(scene(60, 40))], **fields))


def test_the_default_size_is_that_of_the_input_image(bench: Bench) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = bench.run(bench.submit([encoded(scene(60, 40), "JPEG", exif=exif)]))

    assert (turned.request.width, turned.request.height) == (40, 60)
    assert (turned.images[0].width, turned.images[0].height) == (40, 60)
    assert landscape(bench, width=30).request.height == 20
    assert landscape(bench, height=20).request.width == 30


def test_data_after_the_image_is_ignored(bench: Bench) -> None:
    inputs = InputReader(bench.inputs, 10**6).inputs(bench.submit([encoded(scene()) + b"<script>alert(1)</script>"]))

    assert (inputs.images[0] == SCENE).all()


def test_metadata_of_input_images_is_not_passed_on(bench: Bench) -> None:
    exif = Image.Exif()
    exif[0x010F] = "5ecret camera"
    done = bench.run(bench.submit([encoded(scene(), exif=exif)], strength=0.001))

    assert b"5ecret" not in io.BytesIO(bench.files[0].read_bytes()).getvalue()
    assert done.state == "succeeded"


def test_an_image_and_its_mask_get_the_shape_of_the_result(bench: Bench) -> None:
    job = bench.submit([encoded(scene())] * 2, encoded(half_mask()), resize_mode="crop", width=64, height=64)

    inputs = InputReader(bench.inputs, max_pixels=10**6).inputs(job)

    assert inputs.mask is not None
    # Only the first image is what the result begins from.
    assert [image.shape for image in inputs.images] == [(64, 64, 3), (64, 96, 3)]
    assert inputs.sources[0].size == (64, 64)
    assert inputs.mask.shape == (64, 64)
    assert (inputs.mask[:, :32] == 0).all()


def test_masked_parts_are_filled_before_the_shape_is_changed(bench: Bench) -> None:
    fields: dict[str, Any] = {"mask_fill": "grey", "resize_mode": "fill", "width": 96, "height": 96}
    job = bench.submit([encoded(scene())], encoded(half_mask()), **fields)

    (image,) = InputReader(bench.inputs, max_pixels=10**6).inputs(job).images

    assert image.shape == (96, 96, 3)
    assert (image[:, 50:] == 127).all()
    assert not (image[:, :46] == 127).all()
