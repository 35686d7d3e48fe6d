"""The engine interface: capabilities, and images for a request."""

from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from shared.errors import JobFailure, ModelNotFound
from shared.jobs.job import ProviderTask
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities
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
        """Store these tasks in the job record, for later attempts.

        Raises if this worker has lost the job, and for a task without an id, which is about to be bought, also if the
        job was cancelled.
        """
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

    def fingerprint(self) -> str:
        """Identifies the model and how it runs. It changes whenever the images may change."""
        ...


@runtime_checkable
class ReportsPlacement(Protocol):
    """An engine that chooses how much of its model is on the device, and how it runs there."""

    @property
    def placement(self) -> str: ...

    @property
    def acceleration(self) -> str:
        """The level of SD_OPTIMIZE, and what it does for this model on this device."""
        ...


def acceleration_of(engine: Engine) -> str | None:
    return engine.acceleration if isinstance(engine, ReportsPlacement) else None


@runtime_checkable
class ReportsCredits(Protocol):
    """An engine that pays from an account with a provider."""

    def credits(self) -> float | None:
        """The account's remaining credits; None if unknown."""
        ...


#: Bytes of the parts of a model. A part that several models share has the same key in each.
Sizes = Mapping[Hashable, int]


class PooledEngine(Engine, Protocol):
    """An engine of one of several models. Its model can wait in main memory while another one uses the device."""

    @property
    def sizes(self) -> Sizes:
        """Memory that its weights take, as measured."""
        ...

    def move_to_main_memory(self, staying: Set[Hashable] = frozenset()) -> None:
        """No effect if the device is the CPU. The parts in `staying` are needed there by another model."""
        ...

    def move_to_device(self) -> None:
        """Raises OutOfMemory."""
        ...

    def close(self, inherited: Set[Hashable] = frozenset()) -> None:
        """Free its memory. It must not be used afterwards.

        The parts in `inherited` move to main memory, where models that have them as well wait.
        """
        ...


#: Called with the loaded bytes of a model, and its total.
OnLoad = Callable[[int, int], None]


class KnownModels(Protocol):
    """What a worker knows of its models without loading them."""

    @property
    def default_model(self) -> str: ...

    def capabilities(self, model: str) -> Capabilities:
        """Raises ModelNotFound and ModelUnavailable."""
        ...

    def revision(self, model: str) -> str | None:
        """Identifies the files of a model; None if unknown. Raises ModelNotFound."""
        ...


class EngineSource(KnownModels, Protocol):
    """The engines of a worker by the names of their models."""

    @property
    def loaded(self) -> Set[str] | None:
        """Models that need no loading; None if none ever does."""
        ...

    def use(self, model: str, on_load: OnLoad) -> AbstractContextManager[Engine]:
        """The engine of a model, loaded if necessary, and kept in memory during the block.

        Raises ModelNotFound, and ModelUnavailable if it cannot be loaded.
        """
        ...


@dataclass(frozen=True)
class SingleEngine:
    """One engine that is always ready, whatever models it has."""

    engine: Engine
    loaded: None = None

    @property
    def default_model(self) -> str:
        return self.engine.capabilities.model

    def capabilities(self, model: str) -> Capabilities:
        offered = self.engine.capabilities
        for choice in offered.choices or (offered,):
            if choice.model == model:
                # `choices` keeps this model, so that the resolved request names it.
                return choice.model_copy(update={"choices": (choice,) if offered.choices else ()})
        raise ModelNotFound

    def revision(self, model: str) -> str | None:  # noqa: ARG002 - models of a provider have none
        return None

    def use(self, model: str, on_load: OnLoad) -> AbstractContextManager[Engine]:  # noqa: ARG002 - nothing to load
        return nullcontext(self.engine)
