"""The names that AUTOMATIC1111's web UI has for schedulers: a sampler, and the spacing of its steps (schedule type)."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

AUTOMATIC = "Automatic"


@dataclass(frozen=True)
class Sampler:
    name: str
    scheduler: str
    """Our scheduler with the model's own spacing; with Karras' spacing, `_karras` follows."""
    aliases: tuple[str, ...] = ()
    automatic: str = ""
    """The spacing that the web UI uses unless one is chosen."""
    nearest_to: tuple[str, ...] = ()
    """Samplers that we do not have and use this one for."""


SAMPLERS = (
    Sampler("DPM++ 2M", "dpm++_2m", ("k_dpmpp_2m",), "karras"),
    Sampler(
        "DPM++ 2M SDE",
        "dpm++_2m_sde",
        ("k_dpmpp_2m_sde",),
        nearest_to=("DPM++ SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE"),
    ),
    Sampler("Euler a", "euler_a", ("k_euler_a", "k_euler_ancestral"), nearest_to=("DPM2 a",)),
    Sampler("Euler", "euler", ("k_euler",), nearest_to=("LMS", "DPM fast", "Restart")),
    Sampler("Heun", "heun", ("k_heun",), nearest_to=("DPM2", "DPM adaptive")),
    Sampler("DDIM", "ddim", nearest_to=("DDIM CFG++",)),
    Sampler("PLMS", "pndm"),
    Sampler("UniPC", "unipc"),
    Sampler("LCM", "lcm"),
)
#: Schedule types, by the suffix of our schedulers; all others are taken for Automatic.
SCHEDULES: Mapping[str, str] = {"": AUTOMATIC, "karras": "Karras"}


#: Samplers and schedule types by the classes of diffusers, whose names models on Replicate have for them.
_CLASSES: Mapping[str, tuple[str, str]] = {
    "dpmsolvermultistep": ("DPM++ 2M", "uniform"),
    "karrasdpm": ("DPM++ 2M", "karras"),
    "eulerancestraldiscrete": ("Euler a", ""),
    "eulerdiscrete": ("Euler", ""),
    "heundiscrete": ("Heun", ""),
    "unipcmultistep": ("UniPC", ""),
}


def choose_scheduler(sampler: str, schedule: str, offered: Collection[str]) -> tuple[str | None, list[str]]:
    """Our scheduler for a sampler by any of its names, also by the older ones that end in the schedule type.

    None for the model's own; also warnings. `offered` are the schedulers of the model.
    """
    name, suffix = _plain(sampler), _plain(schedule)
    if name.endswith("karras"):
        name, suffix = name.removesuffix("karras"), "karras"
    if not name or name == "automatic":
        return None, []
    found = _BY_NAME.get(name)
    chosen = None if found is None else _spaced(found, suffix, offered)
    if found is None or chosen is None:
        return None, [f"this service has no sampler {sampler[:64]!r}: the model's own is used"]
    warnings = []
    if name in map(_plain, found.nearest_to):
        warnings.append(f"this service has no sampler {sampler[:64]!r}: {found.name} is used")
    if suffix not in _KNOWN_SUFFIXES or (suffix == "karras" and not chosen.endswith("_karras")):
        warnings.append(f"{found.name} has no schedule type {schedule[:64]!r} here: its own is used")
    return chosen, warnings


def find_scheduler(name: str, offered: Collection[str]) -> tuple[str | None, list[str]] | None:
    """Our scheduler for a name of the web UI or for a class of diffusers; None for any other name."""
    plain = _plain(name).removesuffix("scheduler")
    sampler, schedule = _CLASSES.get(plain, (plain, ""))
    is_known = _plain(sampler).removesuffix("karras") in _BY_NAME
    return choose_scheduler(sampler, schedule, offered) if is_known else None


def sampler_of(scheduler: str) -> tuple[str, str]:
    """The sampler and the schedule type of one of our schedulers; one that the web UI does not have keeps its name."""
    base, _, suffix = scheduler.rpartition("_")
    for sampler in SAMPLERS:
        if sampler.scheduler == scheduler:
            return sampler.name, AUTOMATIC
        if sampler.scheduler == base and suffix in SCHEDULES:
            return sampler.name, SCHEDULES[suffix]
    return scheduler, AUTOMATIC


def _plain(name: str) -> str:
    """Clients differ in case, spaces and underscores."""
    return re.sub(r"[\s_]+", "", name.lower())


def _spaced(sampler: Sampler, suffix: str, offered: Collection[str]) -> str | None:
    wanted = sampler.automatic if suffix in ("", "automatic") else suffix
    names = (f"{sampler.scheduler}_{wanted}", sampler.scheduler)
    return next((name for name in names if name in offered), None)


#: Spacings that the model's own stands for.
_KNOWN_SUFFIXES = frozenset({"", "automatic", "uniform", "normal", "karras"})
_BY_NAME: Mapping[str, Sampler] = {
    _plain(name): sampler
    for sampler in SAMPLERS
    for name in (sampler.name, sampler.scheduler, *sampler.aliases, *sampler.nearest_to)
}
