"""The schedulers that a request may name."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import diffusers

_DPM = diffusers.DPMSolverMultistepScheduler.from_config
_EULER = diffusers.EulerDiscreteScheduler.from_config

#: By name: creates the scheduler from the configuration of the model's own scheduler.
SCHEDULERS: Mapping[str, Callable[[Any], Any]] = {
    "ddim": diffusers.DDIMScheduler.from_config,
    "dpm++_2m": partial(_DPM, algorithm_type="dpmsolver++", final_sigmas_type="zero"),
    "dpm++_2m_karras": partial(_DPM, algorithm_type="dpmsolver++", final_sigmas_type="zero", use_karras_sigmas=True),
    "dpm++_2m_sde": partial(_DPM, algorithm_type="sde-dpmsolver++", final_sigmas_type="zero"),
    "dpm++_2m_sde_karras": partial(
        _DPM, algorithm_type="sde-dpmsolver++", final_sigmas_type="zero", use_karras_sigmas=True
    ),
    "euler": _EULER,
    "euler_karras": partial(_EULER, use_karras_sigmas=True),
    "euler_a": diffusers.EulerAncestralDiscreteScheduler.from_config,
    "heun": diffusers.HeunDiscreteScheduler.from_config,
    "heun_karras": partial(diffusers.HeunDiscreteScheduler.from_config, use_karras_sigmas=True),
    "lcm": diffusers.LCMScheduler.from_config,
    "pndm": partial(diffusers.PNDMScheduler.from_config, skip_prk_steps=True),
    "unipc": diffusers.UniPCMultistepScheduler.from_config,
}
#: Wrong colours for models that were trained from pure noise (zero terminal SNR): PNDM has no such schedule, and the
#: schedule of Karras spends nearly all its steps between pure noise and almost pure noise.
_UNSUITED_TO_ZERO_SNR = frozenset({"pndm", *(name for name in SCHEDULERS if name.endswith("_karras"))})


def usable_schedulers(config: Mapping[str, Any], *, only_lcm: bool = False) -> tuple[str, ...]:
    """The schedulers that suit a model with this scheduler configuration; some models only work with LCM's."""
    if only_lcm:
        return ("lcm",)
    unsuited = _UNSUITED_TO_ZERO_SNR if config.get("rescale_betas_zero_snr") else frozenset()
    return tuple(name for name in SCHEDULERS if name not in unsuited)
