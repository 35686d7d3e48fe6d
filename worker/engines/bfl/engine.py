"""FLUX in the cloud of Black Forest Labs: images that are paid for, and so are asked for once."""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, overload
from urllib.parse import urlsplit

from pydantic import SecretStr

from shared.errors import InvalidImage, InvalidOutput, JobFailure, UpstreamUnavailable
from shared.jobs.job import ProviderTask
from shared.jobs.requests import GenerationRequest
from shared.models import bfl
from shared.models.capabilities import Capabilities
from shared.storage.image_headers import read_header
from worker.engines.base import JobWatch, PartialResult, Step
from worker.engines.bfl.client import MAX_IMAGE_BYTES, NAME, BflClient, TaskNotFound, TaskRejected, lost
from worker.engines.bfl.http import ProviderTimeouts, Turn
from worker.engines.bfl.requests import request_body
from worker.images.decoding import MAX_PIXELS, decode_provider_image, decoding_bytes, invalid_output
from worker.images.memory_budget import ImageMemoryBudget, MemoryReservation
from worker.images.values import Inputs, RenderedImage

logger = logging.getLogger(__name__)

#: Progress is told in hundredths.
STEPS = 100


class ConcurrencyLimit(Protocol):
    """Where jobs wait for their turn."""

    def held(self, check: Callable[[], None]) -> AbstractContextManager[None]:
        """A place, waited for while `check` does not raise."""
        ...


class FluxApi:
    """Takes any number of jobs at a time, each on a thread of its own."""

    dtype = "cloud"

    def __init__(
        self,
        base_url: str,
        key: SecretStr,
        default_model: str,
        job_seconds: float,
        places: ConcurrencyLimit,
        memory_bytes: int = 384 << 20,
        patience: ProviderTimeouts = ProviderTimeouts(),  # noqa: B008 - frozen
    ) -> None:
        """`memory_bytes` is what images may take at the same time, those of requests and those that are made."""
        self._base_url = base_url
        self._key = key
        self._patience = patience
        self._job_seconds = job_seconds
        self._places = places
        self._budget = ImageMemoryBudget(memory_bytes)
        self.capabilities = bfl.capabilities(default_model)
        self.device = urlsplit(base_url).hostname or ""

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        """One task after the other: if one fails, those after it were not paid for."""
        with self._places.held(watch.check), self._connect() as client:
            model = self.capabilities.for_requested_model(request)
            order = _Order(client, self._patience, self._budget, model, request, inputs, watch)
            turn, samples = Turn(watch, self._job_seconds), list[_Sample]()
            try:
                for index in range(request.num_images):
                    samples.append(order.image(index, turn))
            except JobFailure as error:
                if samples:
                    raise PartialResult(_Bought(samples, self._budget), error) from error
                raise
            return _Bought(samples, self._budget)

    def credits(self) -> float | None:
        """What the account still has; None where that cannot be told."""
        with self._connect() as client:
            return client.credits()

    def _connect(self) -> BflClient:
        return BflClient(self._base_url, self._key, self._patience)


@dataclass(frozen=True)
class _Sample:
    """An image as it came: small, and known to be one."""

    data: bytes
    seed: int

    @property
    def decoding_bytes(self) -> int:
        """The bytes that it takes to decode it."""
        return len(self.data) + decoding_bytes(read_header(io.BytesIO(self.data), MAX_PIXELS))


class _Bought(Sequence[RenderedImage]):
    """Images that are decoded one by one, as they are looked at."""

    def __init__(self, samples: Sequence[_Sample], budget: ImageMemoryBudget) -> None:
        self._samples = samples
        self._budget = budget

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> RenderedImage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RenderedImage]: ...
    def __getitem__(self, index: int | slice) -> RenderedImage | Sequence[RenderedImage]:
        if isinstance(index, slice):
            return _Bought(self._samples[index], self._budget)
        return RenderedImage(decode_provider_image(self._samples[index].data), self._samples[index].seed)

    def __iter__(self) -> Iterator[RenderedImage]:
        for index, sample in enumerate(self._samples):
            # Until the next one is asked for, which is when this one is stored.
            with self._budget.reserve() as reservation:
                reservation.resize(sample.decoding_bytes)
                yield self[index]


@dataclass(frozen=True)
class _Order:
    """The images of one job, each a task that is on record before anybody waits for it."""

    client: BflClient
    patience: ProviderTimeouts
    budget: ImageMemoryBudget
    model: Capabilities
    request: GenerationRequest
    inputs: Inputs
    watch: JobWatch

    def image(self, index: int, turn: Turn) -> _Sample:
        turn.known, turn.seen = f"Of {self.request.num_images} images, {index} were bought before.", ""
        task = self._bought(index) or self._submit(index, turn)
        turn.known, turn.seen = f"The task {task.id} was bought from {NAME}.", ""
        return self._fetched(index, task, turn)

    def _fetched(self, index: int, task: ProviderTask, turn: Turn) -> _Sample:
        """The image of a task. It is paid for, so whatever can be had by asking again is asked for again."""
        spoilt = 0
        for pause in self.patience.pauses():
            result = self.client.result(task, turn, lambda done: self._tell(index, done))
            if result.cost is not None and result.cost != task.cost:
                task = task.model_copy(update={"cost": result.cost})
                self._remember(index, task)
            try:
                return self._downloaded(result.sample, self._seed(index), turn)
            except TaskNotFound as error:
                turn.seen = str(error)
            except InvalidOutput:
                spoilt += 1
                if spoilt == self.patience.spoilt:
                    raise
            turn.pause(pause)
        raise AssertionError("pauses never end")

    def _downloaded(self, url: str, seed: int, turn: Turn) -> _Sample:
        with self.budget.reserve() as reservation:
            reservation.resize(MAX_IMAGE_BYTES, turn.check)
            sample = _Sample(self.client.download(url, turn), seed)
        with self.budget.reserve() as reservation:
            # While there is still somebody to ask for another.
            try:
                reservation.resize(sample.decoding_bytes, turn.check)
            except InvalidImage as error:
                raise invalid_output(error) from None
            decode_provider_image(sample.data)
        return sample

    def _bought(self, index: int) -> ProviderTask | None:
        """The task that an earlier attempt sent. Raises ProviderResponseLost if it never got the id."""
        if index >= len(self.watch.provider_tasks):
            return None
        task = self.watch.provider_tasks[index]
        if task.id is None:
            raise lost("the worker was lost while it sent the request")
        return task

    def _submit(self, index: int, turn: Turn) -> ProviderTask:
        with self.budget.reserve() as reservation:
            body = self._body(index, reservation, turn)
            why = ""
            for pause, _ in zip(self.patience.pauses(), range(self.patience.tries), strict=False):
                turn.check()
                # Before it is sent: whoever takes over must know that it may have been.
                self._remember(index, ProviderTask())
                try:
                    task = self.client.submit(self.model.model, body)
                except TaskRejected as error:
                    self.watch.save_provider_tasks(self.watch.provider_tasks[:index])
                    why = turn.seen = f"{error}; nothing was charged for this."
                    turn.pause(self.patience.wait_seconds(pause, error.retry_after))
                else:
                    # Should the record be somebody else's by now, this is where its name can still be found.
                    logger.info("%s has taken the task %s", NAME, task.id)
                    self._remember(index, task)
                    return task
        raise UpstreamUnavailable(why)

    def _body(self, index: int, reservation: MemoryReservation, turn: Turn) -> io.BytesIO:
        """Made for each task anew: to keep it while a task is waited for would take more than to make it."""
        make = partial(request_body, self.request, self.model, self.inputs, self._seed(index))
        if not self.inputs.sources:
            return make(lambda _: None)
        with self.budget.exclusive_growth(turn.check):
            return make(partial(reservation.resize, check=turn.check))

    def _seed(self, index: int) -> int:
        if self.request.seed is None:
            raise ValueError("the request is not resolved")
        return self.request.seed + index

    def _remember(self, index: int, task: ProviderTask) -> None:
        known = self.watch.provider_tasks
        self.watch.save_provider_tasks((*known[:index], task, *known[index + 1 :]))

    def _tell(self, index: int, done: float) -> None:
        step = round(STEPS * (index + done) / self.request.num_images)
        self.watch.on_step(Step(max(1, step), STEPS))
