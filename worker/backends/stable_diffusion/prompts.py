"""What of a request's text the model will not read."""

from collections.abc import Iterator
from typing import Any

from shared.schemas import GenerationRequest

#: How much of what was cut is told.
MOST_TOLD = 200


def warnings(pipe: Any, request: GenerationRequest) -> Iterator[str]:
    """A sentence for each text of which the model reads a part only, or nothing."""
    for field, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        for name in ("tokenizer", "tokenizer_2"):
            tokenizer = getattr(pipe, name, None)
            if text and tokenizer is not None and (cut := _cut(tokenizer, text)):
                yield f"{field} is too long for the model, which does not read {cut!r}"
    # Up to 1, guidance makes no second prediction, which the negative prompt would be for.
    guidance = request.guidance_scale
    if request.negative_prompt and guidance is not None and guidance <= 1:
        yield f"negative_prompt has no effect with a guidance_scale of {guidance:g}"


def _cut(tokenizer: Any, text: str) -> str:
    """The end of the text, as far as it lies beyond what the encoder takes: mostly 77 tokens, two of them marks."""
    tokens = tokenizer(text).input_ids
    lost = tokens[tokenizer.model_max_length - 1 : -1]
    told: str = tokenizer.decode(lost).strip()
    return told if len(told) <= MOST_TOLD else f"{told[:MOST_TOLD].rstrip()}..."
