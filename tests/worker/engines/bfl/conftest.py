"""A fake provider, an engine that talks to it, and installations whose workers do."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from shared.jobs.requests import GenerationRequest
from tests.stack import Stack
from tests.worker.engines.bfl.provider import KEY, Provider, provider
from tests.worker.recording_watch import RecordingWatch
from worker.engines.bfl.engine import FluxApi
from worker.engines.bfl.http import ProviderTimeouts
from worker.images.values import Inputs, RenderedImage

#: The defaults, but shorter.
QUICK = ProviderTimeouts(
    connect_seconds=2.0,
    submit_seconds=3.0,
    response_seconds=1.5,
    image_seconds=1.5,
    first_pause=0.01,
    longest_pause=0.02,
    longest_retry_after=0.4,
    unknown_task_seconds=0.5,
)


class Stop(Exception):
    """Raised by the watch of a job that is to stop."""


def stop_after(checks: int) -> Callable[[], None]:
    """A check that stops the job once it was called more often than this."""
    counter = itertools.count(1)

    def check() -> None:
        if next(counter) > checks:
            raise Stop

    return check


class Unlimited:
    """A concurrency limit that is never reached."""

    def held(self, _: Callable[[], None]) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class Table:
    """An engine without a worker."""

    provider: Provider
    seconds: float = 20.0
    url: str = ""
    timeouts: ProviderTimeouts = QUICK

    @property
    def backend(self) -> FluxApi:
        url = self.url or self.provider.api_url
        return FluxApi(url, SecretStr(KEY), "flux-2-pro-preview", self.seconds, Unlimited(), timeouts=self.timeouts)

    def made(self, watch: RecordingWatch | None = None, /, **fields: Any) -> list[RenderedImage]:
        unresolved = GenerationRequest.model_validate({"prompt": "a cat", "seed": 7, **fields})
        request, _ = self.backend.capabilities.resolve(unresolved)
        return list(self.backend.generate(request, Inputs(), watch or RecordingWatch()))


@pytest.fixture(scope="session")
def running_provider() -> Iterator[Provider]:
    with provider() as server:
        yield server


@pytest.fixture
def bfl(running_provider: Provider) -> Iterator[Provider]:
    """The fake provider with its default script."""
    running_provider.reset()
    yield running_provider
    # The worker of the next file starts before its first test does.
    running_provider.reset()


@pytest.fixture
def table(bfl: Provider) -> Table:
    return Table(bfl)


@pytest.fixture
def cloud(stack: Stack, bfl: Provider) -> Stack:
    """An installation that uses the fake provider."""
    stack.settings |= cloud_settings(bfl)
    return stack


def cloud_settings(bfl: Provider) -> dict[str, str]:
    return {"SD_BACKENDS": "flux-api", "SD_BFL_API_KEY": KEY, "SD_BFL_BASE_URL": bfl.api_url}
