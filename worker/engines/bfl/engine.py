"""The engine for FLUX in the cloud of Black Forest Labs. Images cost money, so each is requested only once."""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from shared.errors import InvalidImage, InvalidOutput, JobFailure, UpstreamUnavailable
from shared.jobs.job import ProviderTask
from shared.jobs.requests import GenerationRequest
from shared.models import bfl
from shared.models.capabilities import Capabilities
from shared.net.egress_proxy import EgressProxy
from shared.storage.image_headers import read_header
from worker.engines.base import JobWatch, PartialResult, Step
from worker.engines.bfl.client import NAME, BflClient, ImageNotFound, TaskRejected, response_lost
from worker.engines.bfl.http import MAX_IMAGE_BYTES, Http, JobDeadline, ProviderTimeouts
from worker.engines.bfl.requests import request_body
from worker.images.decoding import MAX_PIXELS, decode_provider_image, decoding_bytes, invalid_output
from worker.images.memory_budget import ImageMemoryBudget, MemoryReservation
from worker.images.values import Inputs, RenderedImage

logger = logging.getLogger(__name__)

#: Progress is reported in hundredths.
STEPS = 100


class ConcurrencyLimit(Protocol):
    def held(self, check: Callable[[], None]) -> AbstractContextManager[None]:
        """A slot for the block. Calls `check` while waiting for it, and raises what it raises."""
        ...


class FluxApi:
    """Thread-safe: runs any number of jobs at a time, each on its own thread."""

    dtype = "cloud"

    def __init__(
        self,
        base_url: str,
        key: SecretStr,
        default_model: str,
        job_seconds: float,
        slots: ConcurrencyLimit,
        memory_bytes: int = 384 << 20,
        timeouts: ProviderTimeouts = ProviderTimeouts(),  # noqa: B008 - frozen
        image_proxy: EgressProxy | None = None,
    ) -> None:
        """`memory_bytes` limits the memory for input images and results of all jobs together."""
        self._new_http = partial(Http, base_url, key, timeouts, image_proxy)
        self._job_seconds = job_seconds
        self._slots = slots
        self._memory_budget = ImageMemoryBudget(memory_bytes)
        self.capabilities = bfl.capabilities(default_model)
        self.device = urlsplit(base_url).hostname or ""

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        """One task after the other: when one fails, the following ones have not been paid for."""
        with self._slots.held(watch.check), self._connect() as client:
            model = self.capabilities.for_requested_model(request)
            tasks = _JobTasks(client, client.http.timeouts, self._memory_budget, model, request, inputs, watch)
            deadline, files = JobDeadline(watch, self._job_seconds), list[_ImageFile]()
            try:
                for index in range(request.num_images):
                    files.append(tasks.image(index, deadline))
            except JobFailure as error:
                if files:
                    raise PartialResult(_LazyImages(files, self._memory_budget), error) from error
                raise
            return _LazyImages(files, self._memory_budget)

    def credits(self) -> float | None:
        with self._connect() as client:
            return client.credits()

    def _connect(self) -> AbstractContextManager[BflClient]:
        return closing(BflClient(self._new_http()))


@dataclass(frozen=True)
class _ImageFile:
    """A valid image, still compressed."""

    data: bytes
    seed: int

    @property
    def decoding_bytes(self) -> int:
        return len(self.data) + decoding_bytes(read_header(io.BytesIO(self.data), MAX_PIXELS))


@dataclass(frozen=True, eq=False)
class _LazyImages(Sequence[RenderedImage]):
    """Decodes one image at a time, during iteration."""

    files: Sequence[_ImageFile]
    budget: ImageMemoryBudget

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> RenderedImage:  # type: ignore[override] # nobody takes slices
        return RenderedImage(decode_provider_image(self.files[index].data), self.files[index].seed)

    def __iter__(self) -> Iterator[RenderedImage]:
        for index, file in enumerate(self.files):
            # Reserved until the next image is requested: by then this one is stored.
            with self.budget.reserve() as reservation:
                reservation.resize(file.decoding_bytes)
                yield self[index]


@dataclass(frozen=True)
class _JobTasks:
    """The provider's tasks of one job, one for each image. Each is recorded before anything waits for it."""

    client: BflClient
    timeouts: ProviderTimeouts
    budget: ImageMemoryBudget
    model: Capabilities
    request: GenerationRequest
    inputs: Inputs
    watch: JobWatch

    def image(self, index: int, deadline: JobDeadline) -> _ImageFile:
        deadline.billing, deadline.last_response = f"{index} of {self.request.num_images} images were paid for.", ""
        task = self._earlier_task(index) or self._submit(index, deadline)
        deadline.billing, deadline.last_response = f"The task {task.id} of {NAME} was paid for.", ""
        return self._wait_for_image(index, task, deadline)

    def _wait_for_image(self, index: int, task: ProviderTask, deadline: JobDeadline) -> _ImageFile:
        """The image is paid for, so everything that can be repeated is repeated."""
        invalid_images = 0
        for pause in self.timeouts.pauses():
            result = self.client.result(task, deadline, lambda done: self._report_progress(index, done))
            if result.cost is not None and result.cost != task.cost:
                task = task.model_copy(update={"cost": result.cost})
                self._save_task(index, task)
            try:
                return self._download(result.image_url, self.request.seeds[index], deadline)
            except ImageNotFound as error:
                deadline.last_response = str(error)
            except InvalidOutput:
                invalid_images += 1
                if invalid_images == self.timeouts.max_invalid_images:
                    raise
            deadline.pause(pause)
        raise AssertionError("pauses never end")

    def _download(self, url: str, seed: int, deadline: JobDeadline) -> _ImageFile:
        with self.budget.reserve() as reservation:
            reservation.resize(MAX_IMAGE_BYTES, deadline.check)
            file = _ImageFile(self.client.download(url, deadline), seed)
        with self.budget.reserve() as reservation:
            # Decoded now, while an invalid image can still be downloaded again.
            try:
                reservation.resize(file.decoding_bytes, deadline.check)
            except InvalidImage as error:
                raise invalid_output(error) from None
            decode_provider_image(file.data)
        return file

    def _earlier_task(self, index: int) -> ProviderTask | None:
        """The task of an earlier attempt. Raises ProviderResponseLost if that attempt never learned its id."""
        if index >= len(self.watch.provider_tasks):
            return None
        task = self.watch.provider_tasks[index]
        if task.id is None:
            raise response_lost("the worker was lost while it sent the request")
        return task

    def _submit(self, index: int, deadline: JobDeadline) -> ProviderTask:
        with self.budget.reserve() as reservation:
            body = self._body(index, reservation, deadline)
            reason = ""
            for pause, _ in zip(self.timeouts.pauses(), range(self.timeouts.max_submits), strict=False):
                deadline.check()
                # Saved first, without an id: a later attempt must know that the request may have been sent.
                self._save_task(index, ProviderTask())
                try:
                    task = self.client.submit(self.model.model, body)
                except TaskRejected as error:
                    self.watch.save_provider_tasks(self.watch.provider_tasks[:index])
                    reason = deadline.last_response = f"{error}; nothing was charged for this."
                    deadline.pause(self.timeouts.retry_pause(pause, error.retry_after))
                else:
                    # If this worker has lost the job, the id is only in the log.
                    logger.info("%s has accepted the task %s", NAME, task.id)
                    self._save_task(index, task)
                    return task
        raise UpstreamUnavailable(reason)

    def _body(self, index: int, reservation: MemoryReservation, deadline: JobDeadline) -> io.BytesIO:
        """Built again for each task: rebuilding it costs less than keeping it in memory while the task runs."""
        build = partial(request_body, self.request, self.model, self.inputs, self.request.seeds[index])
        if not self.inputs.sources:
            return build(lambda _: None)
        with self.budget.exclusive_growth(deadline.check):
            return build(partial(reservation.resize, check=deadline.check))

    def _save_task(self, index: int, task: ProviderTask) -> None:
        tasks = self.watch.provider_tasks
        self.watch.save_provider_tasks((*tasks[:index], task, *tasks[index + 1 :]))

    def _report_progress(self, index: int, done: float) -> None:
        step = round(STEPS * (index + done) / self.request.num_images)
        self.watch.on_step(Step(max(1, step), STEPS))
