"""What each scheduler of the closed list makes with the bundled model."""

import numpy as np
import pytest

from shared.jobs.requests import GenerationRequest
from tests.conftest import RED_HEART
from tests.worker.images.looking import Pixels, shows_a_red_heart_on_blue
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Step
from worker.engines.diffusers.stable_diffusion import StableDiffusion
from worker.engines.diffusers.stable_diffusion.schedulers import SCHEDULERS, usable_schedulers
from worker.images.values import Inputs

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

STEPS = 8
USABLE = usable_schedulers({"rescale_betas_zero_snr": True})


def drawn(starter: StableDiffusion, scheduler: str, steps: list[Step]) -> Pixels:
    asked = GenerationRequest(**RED_HEART, scheduler=scheduler, num_inference_steps=STEPS)
    request, _ = starter.capabilities.resolve(asked)
    (image,) = starter.generate(request, Inputs(), RecordingWatch(steps.append))
    return image.pixels


@pytest.mark.parametrize("scheduler", USABLE)
def test_every_offered_scheduler_draws_what_was_asked(starter: StableDiffusion, scheduler: str) -> None:
    image = drawn(starter, scheduler, [])

    assert shows_a_red_heart_on_blue(image)


@pytest.mark.parametrize("scheduler", ["heun", "lcm"])
def test_every_scheduler_counts_its_steps_up_to_the_last(starter: StableDiffusion, scheduler: str) -> None:
    steps: list[Step] = []

    drawn(starter, scheduler, steps)

    counted = [step.step for step in steps]
    assert counted == sorted(counted)
    assert (counted[0], counted[-1]) == (1, STEPS)


def test_a_scheduler_keeps_nothing_from_one_job_to_the_next(starter: StableDiffusion) -> None:
    first = drawn(starter, "dpm++_2m", [])
    drawn(starter, "euler_a", [])

    assert np.array_equal(drawn(starter, "dpm++_2m", []), first)


def test_a_model_offers_what_suits_it(starter: StableDiffusion) -> None:
    assert set(SCHEDULERS) - set(starter.capabilities.schedulers) == {"dpm++_2m_karras", "pndm"}


def test_a_model_of_the_usual_kind_offers_every_scheduler() -> None:
    assert usable_schedulers({"beta_schedule": "scaled_linear"}) == tuple(SCHEDULERS)
