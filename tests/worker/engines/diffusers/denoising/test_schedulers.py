"""Every scheduler that requests may name, with the bundled model."""

import numpy as np
import pytest

from shared.jobs.requests import GenerationRequest
from tests.conftest import RED_HEART
from tests.worker.images.image_checks import Pixels, shows_a_red_heart_on_blue
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Step
from worker.engines.diffusers.denoising.schedulers import SCHEDULERS, usable_schedulers
from worker.engines.diffusers.engine import DiffusersEngine
from worker.images.values import Inputs

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

STEPS = 8
SMALL = {"width": 64, "height": 64}
USABLE = usable_schedulers({"rescale_betas_zero_snr": True})


def drawn(starter: DiffusersEngine, scheduler: str, steps: list[Step], **fields: int) -> Pixels:
    fields = {"num_inference_steps": STEPS, **fields}
    request, _ = starter.capabilities.resolve(GenerationRequest(**RED_HEART, scheduler=scheduler, **fields))
    (image,) = starter.generate(request, Inputs(), RecordingWatch(steps.append))
    return image.pixels


@pytest.mark.parametrize("scheduler", USABLE)
def test_every_offered_scheduler_draws_the_prompt(starter: DiffusersEngine, scheduler: str) -> None:
    image = drawn(starter, scheduler, [])

    assert shows_a_red_heart_on_blue(image)


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name.endswith("_karras")])
def test_the_spacing_of_karras_suits_ordinary_models(scheduler: str) -> None:
    new = SCHEDULERS[scheduler]({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})
    new.set_timesteps(8)

    assert new.config.use_karras_sigmas
    assert len(new.sigmas) >= 8


@pytest.mark.parametrize("scheduler", ["heun", "lcm"])
def test_every_scheduler_counts_its_steps_up_to_the_last(starter: DiffusersEngine, scheduler: str) -> None:
    steps: list[Step] = []

    drawn(starter, scheduler, steps, **SMALL)

    counted = [step.step for step in steps]
    assert counted == sorted(counted)
    assert (counted[0], counted[-1]) == (1, STEPS)


def test_a_scheduler_keeps_no_state_between_jobs(starter: DiffusersEngine) -> None:
    first = drawn(starter, "dpm++_2m", [], **SMALL)
    drawn(starter, "euler_a", [], **SMALL)

    assert np.array_equal(drawn(starter, "dpm++_2m", [], **SMALL), first)


def test_the_starter_offers_only_suitable_schedulers(starter: DiffusersEngine) -> None:
    karras = {name for name in SCHEDULERS if name.endswith("_karras")}

    assert set(SCHEDULERS) - set(starter.capabilities.schedulers) == {"pndm", *karras}


def test_an_ordinary_model_offers_every_scheduler() -> None:
    assert usable_schedulers({"beta_schedule": "scaled_linear"}) == tuple(SCHEDULERS)
