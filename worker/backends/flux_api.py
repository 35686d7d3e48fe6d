"""FLUX in the cloud of Black Forest Labs: pictures that are paid for, and so are asked for once."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from shared import bfl
from shared.capabilities import Capabilities
from shared.errors import InvalidOutput, UpstreamUnavailable
from shared.schemas import GenerationRequest, Provider
from worker.backends.base import Inputs, Picture, Pixels, Step, Watch
from worker.backends.bfl_client import NAME, Client, NotThere, TurnedAway, lost
from worker.backends.bfl_http import Patience, Turn
from worker.backends.bfl_requests import request_body
from worker.backends.decoding import decode

logger = logging.getLogger(__name__)

#: Progress is told in hundredths.
STEPS = 100


class Places(Protocol):
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
        places: Places,
        patience: Patience = Patience(),  # noqa: B008 - frozen
    ) -> None:
        self._base_url = base_url
        self._key = key
        self._patience = patience
        self._job_seconds = job_seconds
        self._places = places
        self.capabilities = bfl.capabilities(default_model)
        self.device = urlsplit(base_url).hostname or ""

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: Watch) -> Sequence[Picture]:
        """One task after the other: if one fails, those after it were not paid for."""
        with self._places.held(watch.check), self._connect() as client:
            model = self.capabilities.chosen(request)
            order = _Order(client, self._patience, model, request, inputs, watch)
            turn = Turn(watch, self._job_seconds)
            return [order.picture(index, turn) for index in range(request.num_images)]

    def credits(self) -> float | None:
        """What the account still has; None where that cannot be told."""
        with self._connect() as client:
            return client.credits()

    def _connect(self) -> Client:
        return Client(self._base_url, self._key, self._patience)


class _Order:
    """The pictures of one job, each a task that is on record before anybody waits for it."""

    def __init__(
        self,
        client: Client,
        patience: Patience,
        model: Capabilities,
        request: GenerationRequest,
        inputs: Inputs,
        watch: Watch,
    ) -> None:
        self._client = client
        self._patience = patience
        self._model = model
        self._request = request
        self._inputs = inputs
        self._watch = watch

    @cached_property
    def _body(self) -> dict[str, Any]:
        """Not made where every task is on record already."""
        return request_body(self._request, self._model, self._inputs)

    def picture(self, index: int, turn: Turn) -> Picture:
        if self._request.seed is None:
            raise ValueError("the request is not resolved")
        turn.known, turn.seen = f"Of {self._request.num_images} images, {index} were bought before.", ""
        task = self._bought(index) or self._submit(index, turn)
        turn.known, turn.seen = f"The task {task.id} was bought from {NAME}.", ""
        return Picture(self._fetched(index, task, turn), self._request.seed + index)

    def _fetched(self, index: int, task: Provider, turn: Turn) -> Pixels:
        """The image of a task. It is paid for, so whatever can be had by asking again is asked for again."""
        spoilt = 0
        for pause in self._patience.pauses():
            result = self._client.result(task, turn, lambda done: self._tell(index, done))
            if result.cost is not None and result.cost != task.cost:
                task = task.model_copy(update={"cost": result.cost})
                self._remember(index, task)
            try:
                return decode(self._client.download(result.sample, turn))
            except NotThere as error:
                turn.seen = str(error)
            except InvalidOutput:
                spoilt += 1
                if spoilt == self._patience.spoilt:
                    raise
            turn.pause(pause)
        raise AssertionError("pauses never end")

    def _bought(self, index: int) -> Provider | None:
        """The task that an earlier attempt sent. Raises AnswerLost where that did not live to hear its name."""
        if index >= len(self._watch.providers):
            return None
        task = self._watch.providers[index]
        if task.id is None:
            raise lost("the worker was lost while it sent the request")
        return task

    def _submit(self, index: int, turn: Turn) -> Provider:
        body = {**self._body, "seed": (self._request.seed or 0) + index}
        why = ""
        for pause, _ in zip(self._patience.pauses(), range(self._patience.tries), strict=False):
            turn.check()
            # Before it is sent: whoever takes over must know that it may have been.
            self._remember(index, Provider())
            try:
                task = self._client.submit(self._model.model, body)
            except TurnedAway as error:
                self._watch.remember(self._watch.providers[:index])
                why = turn.seen = f"{error}; nothing was charged for this."
                turn.pause(self._patience.wait_seconds(pause, error.retry_after))
            else:
                # Should the record be somebody else's by now, this is where its name can still be found.
                logger.info("%s has taken the task %s", NAME, task.id)
                self._remember(index, task)
                return task
        raise UpstreamUnavailable(why)

    def _remember(self, index: int, task: Provider) -> None:
        self._watch.remember((*self._watch.providers[:index], task))

    def _tell(self, index: int, done: float) -> None:
        step = round(STEPS * (index + done) / self._request.num_images)
        self._watch.on_step(Step(max(1, step), STEPS))
