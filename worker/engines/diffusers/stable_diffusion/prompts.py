"""What the model reads of a request's text, and what it does not."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from shared.jobs.requests import GenerationRequest, Lora
from worker.engines.diffusers.prompt_embeddings import MOST_KEPT, PromptEmbedding, PromptEmbeddingCache

#: How much of what was cut is told.
MOST_TOLD = 200


class Prompts:
    """Reads texts, each by itself, and remembers those read last."""

    def __init__(self, *, is_xl: bool, most_kept: int = MOST_KEPT) -> None:
        self._names = ("prompt_embeds", "pooled_prompt_embeds") if is_xl else ("prompt_embeds",)
        self._loras: Sequence[Lora] = ()
        self._meanings = PromptEmbeddingCache(most_kept)

    def choose(self, loras: Sequence[Lora]) -> None:
        """LoRAs change text encoders too: what was read with others is forgotten."""
        if tuple(loras) != tuple(self._loras):
            self._loras = loras
            self._meanings.forget()

    def arguments(
        self, pipe: Any, texts: Sequence[tuple[str, str | None]], device: torch.device, *, guided: bool
    ) -> dict[str, torch.Tensor]:
        """For a call of the pipeline that makes an image of each prompt and negative prompt on this device."""
        wanted = [self._read(pipe, prompt) for prompt, _ in texts]
        arguments = dict(zip(self._names, _joined(wanted), strict=True))
        if guided:
            unwanted = [self._unwanted(pipe, *each) for each in zip((text for _, text in texts), wanted, strict=True)]
            negative = (f"negative_{name}" for name in self._names)
            arguments.update(zip(negative, _joined(unwanted), strict=True))
        return {name: tensor.to(device) for name, tensor in arguments.items()}

    def _unwanted(self, pipe: Any, text: str | None, wanted: PromptEmbedding) -> PromptEmbedding:
        # As the pipeline of Stable Diffusion XL has it; the others have no such option.
        if text is None and getattr(pipe.config, "force_zeros_for_empty_prompt", False):
            return tuple(torch.zeros_like(tensor) for tensor in wanted)
        return self._read(pipe, text or "")

    def _read(self, pipe: Any, text: str) -> PromptEmbedding:
        return self._meanings.of((text, pipe.unet.dtype), lambda: _encoded(pipe, text))


@torch.no_grad()
def _encoded(pipe: Any, text: str) -> PromptEmbedding:
    told = pipe.encode_prompt(
        prompt=text, device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    # Those of a negative prompt stand in between, and are none here.
    return tuple(tensor for tensor in told if tensor is not None)


def _joined(meanings: Sequence[PromptEmbedding]) -> list[torch.Tensor]:
    """As one batch."""
    return [torch.cat(parts) for parts in zip(*meanings, strict=True)]


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
