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


#: Models of flow matching need schedulers that were made for them; their pipelines choose the noise levels by size.
_FLOW_MATCHING = ("FlowMatch", "SCM")


def usable_schedulers(config: Mapping[str, Any], *, only_lcm: bool = False) -> tuple[str, ...]:
    """The schedulers that suit a model with this scheduler configuration; some models only work with LCM's."""
    if only_lcm:
        return ("lcm",)
    is_flow = config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas")
    if is_flow or str(config.get("_class_name")).startswith(_FLOW_MATCHING):
        return ()
    unsuited = _UNSUITED_TO_ZERO_SNR if config.get("rescale_betas_zero_snr") else frozenset()
    return tuple(name for name in SCHEDULERS if name not in unsuited)


def create_scheduler(name: str | None, default: Any) -> Any:
    """A new one, because they keep state between steps. None takes the model's own."""
    return SCHEDULERS[name](default.config) if name else type(default).from_config(default.config)
