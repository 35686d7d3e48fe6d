"""Takes weights out of prompts for models that can only read plain ones."""

from typing import Any

from shared.jobs.requests import GenerationRequest
from shared.jobs.types import PromptSyntax
from shared.jobs.web_ui.prompt_weights import without_weights


def plain_prompts(request: GenerationRequest, model: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields to change for such a model, and a warning if a prompt has weights."""
    if request.prompt_syntax is not PromptSyntax.WEIGHTED:
        return {}, ()
    prompt, negative = request.prompt, request.negative_prompt
    # A prompt of nothing but brackets stays as it is, because there are no empty prompts.
    texts = {"prompt": without_weights(prompt) or prompt, "negative_prompt": negative and without_weights(negative)}
    has_changed = (texts["prompt"], texts["negative_prompt"]) != (prompt, negative)
    warnings = (f"prompt weights are ignored: {model} does not support them",) if has_changed else ()
    return {**texts, "prompt_syntax": None}, warnings
