"""What a backend is to the rest of the worker: capabilities, and images for a request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from shared.errors import JobFailure
from shared.jobs.job import ProviderTask
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities
from shared.workers.devices import DeviceMemory
from worker.images.values import Inputs, Pixels, RenderedImage


@dataclass(frozen=True)
class Step:
    """One denoising step is done."""

    step: int
    steps: int
    preview: Callable[[int], Pixels | None] | None = None
    """Makes a small image of where the image with this index stands: costly, so only when wanted. None where it is
    not being made just now."""


class Unfinished(Exception):
    """Some of a job's images were bought before it failed: they are given all the same."""

    def __init__(self, images: Sequence[RenderedImage], why: JobFailure) -> None:
        super().__init__(why.detail)
        self.images = images
        self.why = why


#: Called after each step, on the thread that renders. What it raises ends the rendering at once.
OnStep = Callable[[Step], None]


class JobWatch(Protocol):
    """Who follows a job while it is done."""

    @property
    def providers(self) -> tuple[ProviderTask, ...]:
        """Tasks with a provider that the job has, also from attempts before this one."""
        ...

    def on_step(self, step: Step) -> None:
        """Call after each step, on the thread that renders. What it raises ends the rendering at once."""
        ...

    def check(self) -> None:
        """Call where there are no steps. What it raises ends the job at once."""
        ...

    def remember(self, providers: tuple[ProviderTask, ...]) -> None:
        """From then on, attempts after this one know of these tasks. Raises when the job is no longer this worker's."""
        ...

    def warn(self, sentence: str) -> None:
        """Leave a warning on the job, whatever becomes of it. What is said twice is told once."""
        ...

    def retire(self, reason: str) -> None:
        """This process is to do no other job: once this one has ended, well or badly, a fresh process takes over."""
        ...


class MultiJobWatch(JobWatch, Protocol):
    """Who follows several jobs that are done in one go: what is said here is said of each."""

    def of(self, job: int) -> JobWatch:
        """Of one of them, to say what concerns no other."""
        ...


class Engine(Protocol):
    """An engine with its model loaded. One job at a time, unless it says that it takes more."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        """Make the images of a resolved request (see Capabilities.resolve): image i from seed + i.

        `inputs` has as many images as `request.image`, and a mask if the request has one.

        Raises JobFailure for what the caller should know, Unfinished, and whatever `watch` raises.
        """
        ...


@runtime_checkable
class BatchEngine(Protocol):
    """A backend that can render several jobs in one go, in less time than one after the other."""

    def most_together(self, request: GenerationRequest) -> int:
        """How many images of such a request fit in one go, as far as is known: at least 1."""
        ...

    def generate_together(
        self, requests: Sequence[GenerationRequest], inputs: Sequence[Inputs], watch: MultiJobWatch
    ) -> Sequence[Sequence[RenderedImage]]:
        """For each of resolved requests that are alike (worker.jobs.batching), the images that it would get alone.

        Raises what makes all of them fail. It is then no use to try the same again, but each may be tried alone.
        """
        ...


@runtime_checkable
class Reproducible(Protocol):
    """A backend that gives the same images again for the same request."""

    @property
    def identity(self) -> str:
        """Another one where images may come out otherwise: it tells the model from others, and how it runs."""
        ...


@runtime_checkable
class ReportsPlacement(Protocol):
    """A backend that chooses how much of its model is on the device."""

    @property
    def placement(self) -> str: ...


@runtime_checkable
class ReportsMemory(Protocol):
    """A backend that knows how full its device is."""

    def memory(self) -> DeviceMemory | None:
        """Called from another thread than the one that renders; None where it cannot be told."""
        ...


@runtime_checkable
class ReportsCredits(Protocol):
    """A backend that spends from an account with a provider."""

    def credits(self) -> float | None:
        """What the account still has; None where that cannot be told."""
        ...
