"""The closed list of schedulers that a request may name."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import diffusers

_DPM = diffusers.DPMSolverMultistepScheduler.from_config
_EULER = diffusers.EulerDiscreteScheduler.from_config

#: Name -> how to make it from the configuration of the scheduler that the model came with.
SCHEDULERS: Mapping[str, Callable[[Any], Any]] = {
    "ddim": diffusers.DDIMScheduler.from_config,
    "dpm++_2m": partial(_DPM, algorithm_type="dpmsolver++", final_sigmas_type="zero"),
    "dpm++_2m_karras": partial(_DPM, algorithm_type="dpmsolver++", final_sigmas_type="zero", use_karras_sigmas=True),
    "dpm++_2m_sde": partial(_DPM, algorithm_type="sde-dpmsolver++", final_sigmas_type="zero"),
    "euler": _EULER,
    "euler_a": diffusers.EulerAncestralDiscreteScheduler.from_config,
    "heun": diffusers.HeunDiscreteScheduler.from_config,
    "lcm": diffusers.LCMScheduler.from_config,
    "pndm": partial(diffusers.PNDMScheduler.from_config, skip_prk_steps=True),
    "unipc": diffusers.UniPCMultistepScheduler.from_config,
}
#: Wrong colours where the model was trained from pure noise (zero terminal SNR): PNDM knows no such schedule, and
#: Karras' spends nearly all its steps between pure noise and almost pure noise.
_NEED_SOME_SIGNAL = frozenset({"dpm++_2m_karras", "pndm"})


def usable_schedulers(config: Mapping[str, Any], *, only_lcm: bool = False) -> tuple[str, ...]:
    """Names of those that suit a model with this scheduler configuration; some are trained for that of LCMs alone."""
    if only_lcm:
        return ("lcm",)
    unsuited = _NEED_SOME_SIGNAL if config.get("rescale_betas_zero_snr") else frozenset()
    return tuple(name for name in SCHEDULERS if name not in unsuited)
