"""Reads both prompts of AUTOMATIC1111's web UI: LoRAs are taken out, and what changes between steps is settled."""

from collections.abc import Iterable, Sequence
from typing import Any

from shared.jobs.web_ui.changing_prompts import unchanging
from shared.jobs.web_ui.prompt_tags import extract_loras


def prompt_fields(
    prompt: str, negative_prompt: str, steps: int | None, offered_loras: Sequence[str]
) -> tuple[dict[str, Any], Iterable[str]]:
    """Fields of a request, and warnings about what they leave out."""
    text, loras, warnings = extract_loras(prompt, offered_loras)
    text, changes = unchanging(text, steps)
    negative, others = unchanging(negative_prompt, steps)
    # An empty prompt is a prompt there.
    fields = {"prompt": text or " ", "negative_prompt": negative, "loras": loras}
    return {name: value for name, value in fields.items() if value}, dict.fromkeys((*warnings, *changes, *others))
