"""Encoding and storing the images of a job."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from shared.errors import ContentRejected, InvalidOutput, StorageFull, StorageUnavailable
from shared.jobs.job import Image, Job, Timings
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities
from shared.storage.images import ImageStore, thumbnail_widths
from worker.engines.base import acceleration_of
from worker.images.encoder import Encoder
from worker.images.scaling import Scale, scale_to_output, scaled
from worker.images.thumbnails import encode_thumbnail
from worker.images.values import Pixels, RenderedImage
from worker.jobs.rendering import Rendering, milliseconds_since

logger = logging.getLogger(__name__)

WITHHELD = "The safety checker rejected all images; try another prompt or seed."
#: Files that are being encoded, by width.
Thumbnails = Sequence[tuple[int, Future[bytes]]]

#: Hashing fewer takes less time than waking a thread.
_LARGE_BYTES = 128 << 10
#: Pause between two attempts to store an image that was bought.
RETRY_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True)
class SavedImages:
    images: tuple[Image, ...]
    timings: Timings


@dataclass(frozen=True)
class ImageSaver:
    """Stores rendered images. If the worker dies afterwards, another one can finish the job without rendering."""

    images: ImageStore
    encoder: Encoder
    retry_seconds: float = 600
    """How long to go on trying to store an image that was bought."""
    scale: Scale = scaled
    """Scales images to the size that the caller asked for."""
    threads: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, thread_name_prefix="thumbnail"))

    def save(self, rendering: Rendering) -> SavedImages:
        """Store the images. Then raise what rendering raised, if it failed after some of them."""
        if rendering.error is not None and not rendering.rendered:
            raise rendering.error
        monitor, begin = rendering.monitor, time.perf_counter()
        with rendering.spans.record("encode"):
            images = tuple(self._save_image(rendering, *numbered) for numbered in enumerate(rendering.rendered))
        if rendering.error is not None:
            rendering.images = images
            raise rendering.error
        if flagged := sum(image.flagged for image in images):
            monitor.add_warning(f"the safety checker rejected {flagged} of {len(images)} images")
        if flagged == len(images):
            raise ContentRejected(WITHHELD)
        timings = Timings(
            generate_ms=rendering.milliseconds,
            encode_ms=milliseconds_since(begin),
            # A provider reports progress, but no steps.
            step_ms=monitor.step_ms if rendering.job.request.num_inference_steps else None,
            batch_size=rendering.batch_size,
            acceleration=acceleration_of(rendering.engine),
        )
        return SavedImages(images, timings)

    def _save_image(self, rendering: Rendering, index: int, image: RenderedImage) -> Image:
        job = rendering.job
        _check(image.pixels, job.request, rendering.capabilities)
        image = scale_to_output(image, job.request, self.scale)
        if image.flagged:
            return _image(job, index, image)
        thumbnails = self._encode_thumbnails(job, image.pixels)
        data = self.encoder.encode(image, job, in_bands=not rendering.shares_batch)
        digest = self._start_hash(data)
        # A worker that was suspended for so long that it lost the job must leave no file behind.
        rendering.monitor.channel.confirm()
        stored = self._retried(partial(self.images.save, job, index, data), rendering)
        if stored is not data:
            return _image(job, index, image, len(stored), _sha256(stored))
        rendering.saved_indexes.append(index)
        self._save_thumbnails(job, index, thumbnails)
        return _image(job, index, image, len(data), digest())

    def _start_hash(self, data: bytes) -> Callable[[], str]:
        """Large data is hashed on another thread while it is written."""
        return self.threads.submit(_sha256, data).result if len(data) >= _LARGE_BYTES else partial(_sha256, data)

    def _encode_thumbnails(self, job: Job, pixels: Pixels) -> Thumbnails:
        """On other threads, because the image is encoded meanwhile."""
        widths = (width for width in thumbnail_widths(job) if pixels.shape[1] > width)
        return [(width, self.threads.submit(encode_thumbnail, pixels, width)) for width in widths]

    def _save_thumbnails(self, job: Job, index: int, thumbnails: Thumbnails) -> None:
        """Store thumbnails. Errors do not fail the job, because clients get the image if it has none."""
        try:
            for width, file in thumbnails:
                self.images.save_thumbnail(job, index, width, file.result())
        except (StorageFull, StorageUnavailable, OSError) as error:
            logger.warning("job %s has no thumbnail: %s", job.id, error)

    def _retried(self, save: Callable[[], bytes], rendering: Rendering) -> bytes:
        """Retry for an image that was bought. Raise what `save` and the monitor raise."""
        monitor, end = rendering.monitor, time.monotonic() + self.retry_seconds
        while True:
            try:
                return save()
            except (StorageFull, StorageUnavailable, OSError) as error:
                if not monitor.provider_tasks or time.monotonic() >= end:
                    raise
                logger.warning("an image that was bought cannot be stored yet: %s", error)
            monitor.check()
            time.sleep(RETRY_INTERVAL_SECONDS)


def _image(job: Job, index: int, image: RenderedImage, size: int | None = None, digest: str | None = None) -> Image:
    """Return the image's record, without a size and a hash for an image that is withheld."""
    height, width, _ = image.pixels.shape
    return Image(
        index=index,
        media_type=job.request.output_format.media_type,
        width=width,
        height=height,
        seed=image.seed,
        bytes=size,
        sha256=digest,
        flagged=image.flagged,
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check(pixels: Pixels, request: GenerationRequest, model: Capabilities) -> None:
    """Raise InvalidOutput for a wrong size and for one colour everywhere.

    A decoder that overflows gives one colour, mostly black; a provider gives that only on request. With a mask, what
    the engine made and has checked lies on the caller's image, which may be a plain white canvas.
    """
    if request.resize_only or not model.exact_size:
        return
    made = request.second_pass or request
    # What is put back into the input image has the size of that.
    if request.mask_padding is None and pixels.shape[:2] != (made.height, made.width):
        raise InvalidOutput(f"The model returned an image of {pixels.shape[1]}x{pixels.shape[0]} pixels.")
    # Ends at the first row that differs.
    if request.mask is None and all((row == pixels[0, 0, 0]).all() for row in pixels):
        raise InvalidOutput
