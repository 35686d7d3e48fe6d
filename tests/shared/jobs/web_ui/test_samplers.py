"""Samplers are known by the names that AUTOMATIC1111's web UI has for them."""

import pytest

from shared.jobs.web_ui.samplers import AUTOMATIC, choose_scheduler, find_scheduler, sampler_of

OFFERED = (
    *("ddim", "dpm++_2m", "dpm++_2m_karras", "dpm++_2m_sde", "dpm++_2m_sde_karras"),
    *("euler", "euler_a", "euler_karras", "heun", "lcm", "pndm", "unipc"),
)


@pytest.mark.parametrize(
    ("sampler", "schedule", "scheduler"),
    [
        # What webuiapi, Dify, LibreChat, SillyTavern and the web UI of 2022 send.
        ("Euler a", "automatic", "euler_a"),
        ("DPM++ 2M", "", "dpm++_2m_karras"),
        ("DPM++ 2M", "Karras", "dpm++_2m_karras"),
        ("DPM++ 2M Karras", "", "dpm++_2m_karras"),
        ("DPM++ 2M", "Uniform", "dpm++_2m"),
        ("k_euler_ancestral", "", "euler_a"),
        ("Euler", "Karras", "euler_karras"),
        ("dpm++_2m_sde", "", "dpm++_2m_sde"),
        ("PLMS", "", "pndm"),
        ("", "", None),
        ("Automatic", "Karras", None),
    ],
)
def test_a_sampler_and_its_schedule_type_are_one_scheduler(sampler: str, schedule: str, scheduler: str | None) -> None:
    assert choose_scheduler(sampler, schedule, OFFERED) == (scheduler, [])


@pytest.mark.parametrize(
    ("sampler", "schedule", "scheduler", "warning"),
    [
        ("DPM++ SDE Karras", "", "dpm++_2m_sde_karras", "no sampler 'DPM++ SDE Karras': DPM++ 2M SDE is used"),
        ("Euler", "Polyexponential", "euler", "Euler has no schedule type 'Polyexponential' here"),
        ("Heun", "Karras", "heun", "Heun has no schedule type 'Karras' here"),
        ("no such", "", None, "no sampler 'no such': the model's own is used"),
        ("DPM2 a", "", "euler_a", "no sampler 'DPM2 a': Euler a is used"),
        ("x" * 100_000, "y" * 100_000, None, "the model's own is used"),
    ],
)
def test_what_is_not_available_gives_a_warning(
    sampler: str, schedule: str, scheduler: str | None, warning: str
) -> None:
    chosen, warnings = choose_scheduler(sampler, schedule, OFFERED)

    assert chosen == scheduler
    assert warning in warnings[0]
    assert len(warnings) == 1
    assert len(warnings[0]) < 200


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        # Of Replicate's models for Stable Diffusion and SDXL.
        ("DDIM", "ddim"),
        ("DPMSolverMultistep", "dpm++_2m"),
        ("HeunDiscrete", "heun"),
        ("KarrasDPM", "dpm++_2m_karras"),
        ("K_EULER_ANCESTRAL", "euler_a"),
        ("K_EULER", "euler"),
        ("PNDM", "pndm"),
        # Of fal's.
        ("DPM++ 2M SDE Karras", "dpm++_2m_sde_karras"),
        ("Euler A", "euler_a"),
        # Of diffusers.
        ("EulerAncestralDiscreteScheduler", "euler_a"),
        ("UniPCMultistepScheduler", "unipc"),
        ("LCMScheduler", "lcm"),
    ],
)
def test_a_scheduler_is_found_by_the_names_of_other_services(name: str, scheduler: str) -> None:
    assert find_scheduler(name, OFFERED) == (scheduler, [])


def test_a_name_that_no_service_has_is_not_found() -> None:
    assert find_scheduler("K_EULR", OFFERED) is None


def test_schedulers_have_the_names_of_the_web_ui() -> None:
    assert sampler_of("dpm++_2m_karras") == ("DPM++ 2M", "Karras")
    assert sampler_of("euler_a") == ("Euler a", AUTOMATIC)
    assert sampler_of("of a later version") == ("of a later version", AUTOMATIC)


@pytest.mark.parametrize("scheduler", OFFERED)
def test_names_lead_back_to_their_scheduler(scheduler: str) -> None:
    name, schedule = sampler_of(scheduler)
    schedule = "Uniform" if schedule == AUTOMATIC else schedule

    assert choose_scheduler(name, schedule, OFFERED)[0] == scheduler
