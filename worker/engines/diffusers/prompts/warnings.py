"""Warns about text that has no effect."""

from collections.abc import Iterator
from typing import Any

from shared.jobs.requests import GenerationRequest
from shared.jobs.types import PromptSyntax
from worker.engines.diffusers.denoising.call_arguments import has_second_prediction
from worker.engines.diffusers.loading.pipeline_classes import has_negative_prompt, parameters_of
from worker.engines.diffusers.loading.pipelines import Pipelines
from worker.engines.diffusers.prompts.clip_encoding import Chunker

#: How much of the ignored text a warning quotes.
MAX_QUOTE = 200
_TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")


def prompt_warnings(pipelines: Pipelines, request: GenerationRequest) -> Iterator[str]:
    """One warning for each text that the model ignores, wholly or in part.

    Fields that a model always ignores are warned of when the request is resolved.
    """
    is_weighted = request.prompt_syntax is PromptSyntax.WEIGHTED
    yield from _length_warnings(pipelines, "prompt", request.prompt, is_weighted=is_weighted)
    if not request.negative_prompt or not has_negative_prompt(pipelines.family, parameters_of(pipelines.text)):
        return
    if has_second_prediction(pipelines.family, request.guidance_scale):
        yield from _length_warnings(pipelines, "negative_prompt", request.negative_prompt, is_weighted=is_weighted)
    else:
        yield f"negative_prompt has no effect with a guidance_scale of {request.guidance_scale or 0:g}"


def _length_warnings(pipelines: Pipelines, field: str, text: str, *, is_weighted: bool) -> Iterator[str]:
    found = (getattr(pipelines.text, name, None) for name in _TOKENIZERS)
    # A processor for texts and images holds a tokenizer.
    tokenizers = [getattr(found, "tokenizer", found) for found in found if found is not None]
    long = [tokenizer for tokenizer in tokenizers if not type(tokenizer).__name__.startswith("CLIP")]
    for tokenizer in long or tokenizers:
        if not long and (quote := _ignored_text(tokenizer, text, is_weighted=is_weighted)):
            yield f"{field} is too long: the model ignores {quote!r}"
        if long and (count := _ignored_tokens(tokenizer, text, _max_tokens(pipelines))) > 0:
            yield f"{field} is too long: the model ignores its last {count} tokens"


def _ignored_text(tokenizer: Any, text: str, *, is_weighted: bool) -> str:
    """The end of the text, beyond the encoder's limit: usually 77 tokens, two of them markers."""
    ignored = Chunker(tokenizer).ignored_text(text, is_weighted=is_weighted)
    return ignored if len(ignored) <= MAX_QUOTE else f"{ignored[:MAX_QUOTE].rstrip()}..."


def _ignored_tokens(tokenizer: Any, text: str, limit: int | None) -> int:
    if getattr(tokenizer, "chat_template", None):
        message = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    return len(tokenizer(text).input_ids) - (limit or tokenizer.model_max_length)


def _max_tokens(pipelines: Pipelines) -> int | None:
    given: int | None = pipelines.family.arguments.get("max_sequence_length")
    parameter = parameters_of(pipelines.text).get("max_sequence_length")
    return given or (parameter.default if parameter else None)
