"""The engine interface: capabilities, and images for a request."""

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
    """A finished denoising step."""

    step: int
    steps: int
    render_preview: Callable[[int], Pixels | None] | None = None
    """Renders a small preview of the image with this index; None while that image is not being denoised. Rendering is
    expensive: call it only when somebody needs the preview."""


class PartialResult(Exception):
    """The job failed after the provider had been paid for some of its images. Those images are returned."""

    def __init__(self, images: Sequence[RenderedImage], failure: JobFailure) -> None:
        super().__init__(failure.detail)
        self.images = images
        self.failure = failure


#: Called after each step, on the rendering thread. An exception ends the rendering at once.
OnStep = Callable[[Step], None]


class JobWatch(Protocol):
    """Receives the progress of a running job and may end it."""

    @property
    def provider_tasks(self) -> tuple[ProviderTask, ...]:
        """The job's tasks with a provider, including those of earlier attempts."""
        ...

    def on_step(self, step: Step) -> None:
        """Call this after each step, on the rendering thread. An exception ends the rendering at once."""
        ...

    def check(self) -> None:
        """Call this regularly where there are no steps. An exception ends the job at once."""
        ...

    def save_provider_tasks(self, tasks: tuple[ProviderTask, ...]) -> None:
        """Store these tasks in the job record, for later attempts. Raises if this worker has lost the job."""
        ...

    def add_warning(self, warning: str) -> None:
        """Add a warning to the job, whether it succeeds or fails. Duplicates are dropped."""
        ...

    def request_restart(self, reason: str) -> None:
        """Replace this process after the current job, whether the job succeeds or fails."""
        ...


class MultiJobWatch(JobWatch, Protocol):
    """Watches a batch of jobs: every call applies to all of them."""

    def for_job(self, job: int) -> JobWatch:
        """The watch of a single job of the batch."""
        ...


class Engine(Protocol):
    """An engine with its model loaded. It runs one job at a time, unless its docstring says otherwise."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        """Generate the images of a resolved request (see Capabilities.resolve): image i from seed + i.

        `inputs` has as many images as `request.image`, and a mask if the request has one.

        Raises JobFailure for errors that the caller should see, PartialResult, and whatever `watch` raises.
        """
        ...


@runtime_checkable
class BatchEngine(Protocol):
    """An engine that renders several jobs as one batch, faster than one after the other."""

    def batch_capacity(self, request: GenerationRequest) -> int:
        """An estimate of how many images of such a request fit in one batch: at least 1."""
        ...

    def generate_batch(
        self, requests: Sequence[GenerationRequest], inputs: Sequence[Inputs], watch: MultiJobWatch
    ) -> Sequence[Sequence[RenderedImage]]:
        """For each of these compatible, resolved requests (see worker.jobs.batching), the same images as alone.

        Raises when the whole batch fails. The same batch would fail again, but each job may be tried alone.
        """
        ...


@runtime_checkable
class Reproducible(Protocol):
    """An engine that returns identical images for identical requests."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model and how it runs. It changes whenever the images may change."""
        ...


@runtime_checkable
class ReportsPlacement(Protocol):
    """An engine that chooses how much of its model is on the device."""

    @property
    def placement(self) -> str: ...


@runtime_checkable
class ReportsMemory(Protocol):
    """An engine that knows how full its device is."""

    def memory(self) -> DeviceMemory | None:
        """None if unknown. Called from another thread than the rendering one."""
        ...


@runtime_checkable
class ReportsCredits(Protocol):
    """An engine that pays from an account with a provider."""

    def credits(self) -> float | None:
        """The account's remaining credits; None if unknown."""
        ...
