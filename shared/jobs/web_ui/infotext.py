"""Writes and reads the text in which AUTOMATIC1111's web UI records how an image was made.

The prompt comes first, then the line of the negative prompt, and last one line of settings.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from shared.jobs.job import Image, Job
from shared.jobs.web_ui.image_choices import MASKED_CONTENT
from shared.jobs.web_ui.samplers import sampler_of

NEGATIVE = "Negative prompt:"
#: What the web UI calls the two texts in its parsed form.
PROMPT_KEY, NEGATIVE_KEY = "Prompt", "Negative prompt"
#: With fewer settings, the last line is part of the prompt.
MIN_SETTINGS = 3
MAX_SETTINGS_LENGTH = 64 * 1024
_SETTING = re.compile(r'\s*+(\w[\w \-/]{0,63}+):\s*+("(?:\\.|[^\\"])++"|[^,]*+)(?:,|$)')
_SIZE = re.compile(r"(\d{1,9})x(\d{1,9})")


def infotext(job: Job, seed: int, size: tuple[int, int], version: str) -> str:
    """What the web UI would write for an image of a job; `size` is that of the file."""
    request, second = job.request, job.request.second_pass
    is_scaled = request.output_width or second or request.mask_padding is not None
    made = (request.width or size[0], request.height or size[1]) if is_scaled else size
    rendered = (second.width, second.height) if second else made
    sampler, schedule = sampler_of(request.scheduler) if request.scheduler else (None, None)
    settings = {
        "Steps": request.num_inference_steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": None if request.guidance_scale is None else float(request.guidance_scale),
        "Seed": seed,
        "Size": f"{made[0]}x{made[1]}",
        "Model": job.model or "",
        "Denoising strength": second.strength if second else request.strength,
        "Clip skip": request.clip_skip,
        "Mask blur": request.mask_blur,
        "Masked content": MASKED_CONTENT.get(request.mask_fill) if request.mask_fill else None,
        "Inpaint area": None if request.mask_padding is None else "Only masked",
        "Masked area padding": request.mask_padding,
        "Hires upscale": second.scale if second else None,
        "Hires steps": second.num_inference_steps if second else None,
        "Hires upscaler": "Lanczos" if second else None,
        # The web UI's words for images that are enlarged after they were made.
        "Postprocess upscale to": f"{size[0]}x{size[1]}" if request.output_width and rendered != size else None,
        "Version": f"imagegen {version}",
    }
    return write_infotext(request.prompt, request.negative_prompt, settings)


def generation_info(job: Job, images: Sequence[Image], version: str) -> dict[str, Any]:
    """What the web UI's API returns about images, and the job that made them."""
    request, first = job.request, images[0]
    seeds = [image.seed for image in images]
    sampler, _ = sampler_of(request.scheduler) if request.scheduler else ("Automatic", "")
    return {
        "prompt": request.prompt,
        "all_prompts": [request.prompt] * len(images),
        "negative_prompt": request.negative_prompt or "",
        "all_negative_prompts": [request.negative_prompt or ""] * len(images),
        "seed": first.seed,
        "all_seeds": seeds,
        "subseed": first.seed,
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": first.width,
        "height": first.height,
        "sampler_name": sampler,
        "cfg_scale": request.guidance_scale,
        "steps": request.num_inference_steps,
        "batch_size": len(images),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.model,
        "sd_model_hash": None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": request.second_pass.strength if request.second_pass else request.strength,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [infotext(job, image.seed, (image.width, image.height), version) for image in images],
        "styles": [],
        "job_timestamp": (job.finished_at or job.created_at).strftime("%Y%m%d%H%M%S"),
        "clip_skip": request.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"imagegen {version}",
        "job_id": job.id,
        "warnings": list(job.warnings),
    }


def write_infotext(prompt: str, negative_prompt: str | None, settings: Mapping[str, object]) -> str:
    """Settings that are None are left out."""
    lines = [prompt]
    if negative_prompt:
        lines.append(f"{NEGATIVE} {negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None))
    return "\n".join(lines)


def parse_infotext(text: str) -> dict[str, str]:
    """The prompts and settings by the web UI's names for them; a size becomes two settings, `Size-1` and `Size-2`."""
    *lines, last = text.strip().split("\n")
    settings = _SETTING.findall(last[:MAX_SETTINGS_LENGTH])
    if len(settings) < MIN_SETTINGS:
        lines, settings = [*lines, last], []
    texts: dict[str, list[str]] = {PROMPT_KEY: [], NEGATIVE_KEY: []}
    key = PROMPT_KEY
    for line in map(str.strip, lines):
        if line.startswith(NEGATIVE):
            key, line = NEGATIVE_KEY, line.removeprefix(NEGATIVE).strip()
        texts[key].append(line)
    parsed = {name: "\n".join(parts).strip() for name, parts in texts.items()}
    for name, value in settings:
        parsed |= _setting(name, value)
    return parsed


def _setting(name: str, value: str) -> dict[str, str]:
    text = _unquoted(value)
    if size := _SIZE.fullmatch(text):
        return {f"{name}-1": size[1], f"{name}-2": size[2]}
    return {name: text}


def _quoted(value: object) -> str:
    """As a JSON string if the value contains punctuation of the format."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search("[,:\n]", text) else text


def _unquoted(text: str) -> str:
    if text[:1] != '"':
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text
