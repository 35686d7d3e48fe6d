"""Renders a request in as many passes of its engine as it takes: none to resize an image, more to refine one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.jobs.job import ProviderTask
from shared.jobs.requests import GenerationRequest, SecondPass
from worker.engines.base import Engine, JobWatch, Step
from worker.images.scaling import scaled
from worker.images.values import Inputs, Pixels, RenderedImage

#: Stands for an input image in the request of a second pass, whose pixels were never stored.
RENDERED = f"sha256:{'0' * 64}"


def generate(engine: Engine, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
    """Raises what the engine raises, and what decoding the inputs raises."""
    if request.resize_only:
        size = request.width or 0, request.height or 0
        pixels, opacity = inputs.sources[0].transparent_pixels()
        opacity = None if opacity is None else scaled(opacity, size)
        return [RenderedImage(scaled(pixels, size), request.seed or 0, opacity=opacity)]
    second = request.second_pass
    if second is None:
        return engine.generate(request, inputs, watch)
    first_request = request.model_copy(update={"second_pass": None})
    passes, steps = request.num_images + 1, request.num_inference_steps or 1

    def watch_of(number: int, image: int = 0) -> JobWatch:
        return PassWatch(watch, lambda step: _as_step_of_job(step, number, passes, steps, image))

    images = engine.generate(first_request, inputs, watch_of(0))
    return [
        # What the safety checker withholds stays withheld.
        image if image.flagged else _render_again(engine, first_request, second, image, watch_of(index + 1, index))
        for index, image in enumerate(images)
    ]


def _render_again(
    engine: Engine, request: GenerationRequest, second: SecondPass, image: RenderedImage, watch: JobWatch
) -> RenderedImage:
    if second.width is None or second.height is None:
        raise ValueError("the request is not resolved")
    size = second.width, second.height
    changes = {
        "seed": image.seed,
        "num_images": 1,
        "image": (RENDERED,),
        "width": second.width,
        "height": second.height,
        "strength": second.strength,
        "num_inference_steps": second.num_inference_steps or request.num_inference_steps,
    }
    enlarged = Inputs([scaled(image.pixels, size)])
    (rendered,) = engine.generate(request.model_copy(update=changes), enlarged, watch)
    return rendered


def _as_step_of_job(step: Step, number: int, passes: int, steps: int, image: int) -> Step:
    """Every pass counts as many steps as the first, whatever it takes."""
    render = step.render_preview

    def render_preview(index: int) -> Pixels | None:
        return render(index - image) if render is not None else None

    return Step(number * steps + max(1, step.step * steps // step.steps), passes * steps, render_preview)


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
