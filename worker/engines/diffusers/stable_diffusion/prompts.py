"""Encodes prompts, and warns about text that has no effect."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from shared.jobs.prompt_weights import WeightedText, parse_weights
from shared.jobs.requests import GenerationRequest, Lora
from shared.jobs.types import PromptSyntax
from worker.engines.diffusers.prompt_embeddings import MAX_ENTRIES, PromptEmbedding, PromptEmbeddingCache
from worker.engines.diffusers.weighted_prompts import Chunker, encode_sections

#: How much of the ignored text a warning quotes.
MAX_QUOTE = 200


class Prompts:
    """Encodes every text by itself, with a cache."""

    def __init__(self, *, is_xl: bool, max_cached: int = MAX_ENTRIES) -> None:
        self._names = ("prompt_embeds", "pooled_prompt_embeds") if is_xl else ("prompt_embeds",)
        self._loras: Sequence[Lora] = ()
        self._embeddings = PromptEmbeddingCache(max_cached)

    def use_loras(self, loras: Sequence[Lora]) -> None:
        """Clears the cache when the LoRAs change, because they change text encoders too."""
        if tuple(loras) != tuple(self._loras):
            self._loras = loras
            self._embeddings.clear()

    def arguments(
        self,
        pipe: Any,
        texts: Sequence[tuple[str, str | None]],
        request: GenerationRequest,
        device: torch.device,
        *,
        guided: bool,
    ) -> dict[str, torch.Tensor]:
        """Arguments of a pipeline call for a batch with these prompts and negative prompts."""
        positive = [self._encode(pipe, prompt, request) for prompt, _ in texts]
        negative = [
            self._encode_negative(pipe, text, embedding, request)
            for (_, text), embedding in zip(texts if guided else (), positive, strict=guided)
        ]
        length = max(embedding[0].shape[1] for embedding in (*positive, *negative))

        def batched(embeddings: Sequence[PromptEmbedding]) -> list[torch.Tensor]:
            return _batched([self._extended(pipe, embedding, length, request) for embedding in embeddings])

        arguments = dict(zip(self._names, batched(positive), strict=True))
        if guided:
            arguments.update(zip((f"negative_{name}" for name in self._names), batched(negative), strict=True))
        return {name: tensor.to(device) for name, tensor in arguments.items()}

    def _extended(
        self, pipe: Any, embedding: PromptEmbedding, length: int, request: GenerationRequest
    ) -> PromptEmbedding:
        """Followed by empty texts: all texts of a pipeline call need equally many tokens."""
        text, *pooled = embedding
        if text.shape[1] == length:
            return embedding
        empty = self._encode(pipe, "", request)[0]
        return torch.cat([text, *[empty] * ((length - text.shape[1]) // empty.shape[1])], dim=1), *pooled

    def _encode_negative(
        self, pipe: Any, text: str | None, positive: PromptEmbedding, request: GenerationRequest
    ) -> PromptEmbedding:
        # As in the pipeline of Stable Diffusion XL; the others have no such option.
        if text is None and getattr(pipe.config, "force_zeros_for_empty_prompt", False):
            return tuple(torch.zeros_like(tensor) for tensor in positive)
        return self._encode(pipe, text or "", request)

    def _encode(self, pipe: Any, text: str, request: GenerationRequest) -> PromptEmbedding:
        syntax, clip_skip = request.prompt_syntax, request.clip_skip

        def encode() -> PromptEmbedding:
            if syntax is PromptSyntax.WEIGHTED:
                return encode_sections(pipe, parse_weights(text), clip_skip)
            if clip_skip is not None:
                return encode_sections(pipe, ((WeightedText(text),),), clip_skip, max_chunks=1)
            return _encode(pipe, text)

        return self._embeddings.get((text, syntax, clip_skip, pipe.unet.dtype), encode)


@torch.no_grad()
def _encode(pipe: Any, text: str) -> PromptEmbedding:
    embeddings = pipe.encode_prompt(
        prompt=text, device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    # The embeddings of the negative prompt lie in between; here they are None.
    return tuple(tensor for tensor in embeddings if tensor is not None)


def _batched(embeddings: Sequence[PromptEmbedding]) -> list[torch.Tensor]:
    return [torch.cat(parts) for parts in zip(*embeddings, strict=True)]


def prompt_warnings(pipe: Any, request: GenerationRequest) -> Iterator[str]:
    """One warning for each text that the model ignores, wholly or in part."""
    for field, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        for name in ("tokenizer", "tokenizer_2"):
            tokenizer = getattr(pipe, name, None)
            if text and tokenizer is not None and (ignored := _ignored_text(tokenizer, text, request.prompt_syntax)):
                yield f"{field} is too long: the model ignores {ignored!r}"
    # The negative prompt is for the second prediction, which guidance up to 1 leaves out.
    guidance = request.guidance_scale
    if request.negative_prompt and guidance is not None and guidance <= 1:
        yield f"negative_prompt has no effect with a guidance_scale of {guidance:g}"


def _ignored_text(tokenizer: Any, text: str, syntax: PromptSyntax | None) -> str:
    """The end of the text, beyond the encoder's limit: usually 77 tokens, two of them markers."""
    if syntax is PromptSyntax.WEIGHTED:
        ignored = Chunker(tokenizer).ignored_text(text)
    else:
        tokens = tokenizer(text).input_ids
        ignored = tokenizer.decode(tokens[tokenizer.model_max_length - 1 : -1]).strip()
    return ignored if len(ignored) <= MAX_QUOTE else f"{ignored[:MAX_QUOTE].rstrip()}..."
