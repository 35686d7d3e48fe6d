"""A provider for each test, a backend that talks to it, and installations whose workers do."""

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

#: As in service, but for the length of the pauses.
QUICK = ProviderTimeouts(
    connect_seconds=2.0,
    submit_seconds=1.0,
    answer_seconds=0.5,
    image_seconds=0.5,
    first_pause=0.01,
    longest_pause=0.02,
    longest_retry_after=0.4,
    unknown_seconds=0.5,
)


class Anywhere:
    """Places without end."""

    def held(self, _: Callable[[], None]) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class Table:
    """A backend without a worker around it."""

    provider: Provider
    seconds: float = 20.0
    url: str = ""

    @property
    def backend(self) -> FluxApi:
        url = self.url or self.provider.api_url
        return FluxApi(url, SecretStr(KEY), "flux-2-pro-preview", self.seconds, Anywhere(), patience=QUICK)

    def made(self, watch: RecordingWatch | None = None, **fields: Any) -> list[RenderedImage]:
        asked = GenerationRequest.model_validate({"prompt": "a cat", "seed": 7, **fields})
        request, _ = self.backend.capabilities.resolve(asked)
        return list(self.backend.generate(request, Inputs(), watch or RecordingWatch()))


@pytest.fixture
def bfl() -> Iterator[Provider]:
    with provider() as server:
        yield server


@pytest.fixture
def table(bfl: Provider) -> Table:
    return Table(bfl)


@pytest.fixture
def cloud(stack: Stack, bfl: Provider) -> Stack:
    """An installation with a key, and a provider that it takes for theirs."""
    stack.settings |= cloud_settings(bfl)
    return stack


def cloud_settings(bfl: Provider) -> dict[str, str]:
    return {"SD_BACKENDS": "flux-api", "SD_BFL_API_KEY": KEY, "SD_BFL_BASE_URL": bfl.api_url}
