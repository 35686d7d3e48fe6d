"""Renders a request in as many passes of its engine as it takes: none to resize an image, more to refine one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shared.jobs.job import ProviderTask
from shared.jobs.requests import GenerationRequest, SecondPass
from worker.engines.base import Engine, JobWatch, Step
from worker.images.scaling import scaled
from worker.images.values import Inputs, Pixels, RenderedImage
from worker.jobs.masked_area import render_masked_area

#: Stands for an input image in the request of a second pass, whose pixels were never stored.
RENDERED = f"sha256:{'0' * 64}"


def generate(engine: Engine, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
    """Raises what the engine raises, and what decoding the inputs raises."""
    if request.resize_only:
        pixels, opacity = inputs.sources[0].transparent_pixels()
        opacity = None if opacity is None else scaled(opacity, request.size)
        return [RenderedImage(scaled(pixels, request.size), request.seeds[0], opacity=opacity)]
    if request.mask_padding is not None and inputs.mask is not None:
        return render_masked_area(engine, request, inputs, inputs.mask, watch)
    second = request.second_pass
    if second is None:
        return engine.generate(request, inputs, watch)
    first_request = request.model_copy(update={"second_pass": None})
    counter = PassCounter(watch, request.num_images + 1, request.num_inference_steps or 1)
    images = engine.generate(first_request, inputs, counter.watch_first())
    return [
        _render_again(engine, first_request, second, image, counter.watch_second(index))
        for index, image in enumerate(images)
    ]


def _render_again(
    engine: Engine, request: GenerationRequest, second: SecondPass, image: RenderedImage, watch: JobWatch
) -> RenderedImage:
    if second.width is None or second.height is None:
        raise ValueError("the request is not resolved")
    size = second.width, second.height
    enlarged = replace(image, pixels=scaled(image.pixels, size))
    # What the safety checker withholds stays withheld.
    if image.flagged:
        return enlarged
    changes = {
        "seed": image.seed,
        "num_images": 1,
        "image": (RENDERED,),
        "width": second.width,
        "height": second.height,
        "strength": second.strength,
        "num_inference_steps": second.num_inference_steps or request.num_inference_steps,
    }
    (rendered,) = engine.generate(request.model_copy(update=changes), Inputs([enlarged.pixels]), watch)
    return rendered


@dataclass(frozen=True)
class PassCounter:
    """Counts the steps of all passes: each counts as many as the first, whatever it takes."""

    watch: JobWatch
    passes: int
    steps: int

    def watch_first(self) -> JobWatch:
        """Of the pass that renders all images."""
        return PassWatch(self.watch, lambda step: self._counted(step, 0, step.render_preview))

    def watch_second(self, image: int) -> JobWatch:
        """Of the pass that renders only this image again."""

        def translate(step: Step) -> Step:
            render = step.render_preview
            own = (lambda index: render(0) if index == image else None) if render is not None else None
            return self._counted(step, image + 1, own)

        return PassWatch(self.watch, translate)

    def _counted(self, step: Step, number: int, render: Callable[[int], Pixels | None] | None) -> Step:
        done = number * self.steps + max(1, step.step * self.steps // step.steps)
        return Step(done, self.passes * self.steps, render)


@dataclass(frozen=True)
class PassWatch:
    """The watch of a job during one of its passes."""

    watch: JobWatch
    translate: Callable[[Step], Step]

    @property
    def provider_tasks(self) -> tuple[ProviderTask, ...]:
        return self.watch.provider_tasks

    def on_step(self, step: Step) -> None:
        self.watch.on_step(self.translate(step))

    def check(self) -> None:
        self.watch.check()

    def save_provider_tasks(self, tasks: tuple[ProviderTask, ...]) -> None:
        self.watch.save_provider_tasks(tasks)

    def add_warning(self, warning: str) -> None:
        self.watch.add_warning(warning)

    def request_restart(self, reason: str) -> None:
        self.watch.request_restart(reason)
