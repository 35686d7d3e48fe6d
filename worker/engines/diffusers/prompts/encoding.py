"""Encodes each prompt once, in place of the pipelines themselves."""

import inspect
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from shared.jobs.prompt_weights import WeightedText, parse_weights
from shared.jobs.requests import GenerationRequest, Lora
from shared.jobs.types import PromptSyntax
from worker.engines.diffusers.prompts.embedding_cache import (
    MAX_ENTRIES,
    PromptEmbedding,
    PromptEmbeddingCache,
    moved,
)
from worker.engines.diffusers.prompts.weighted_prompts import encode_sections

#: Arguments that may be part of a key. Others, such as images, belong to a single request.
_PLAIN = (str, int, float, bool, type(None), torch.device, torch.dtype)


class Prompts:
    """Stands in for `encode_prompt` of a pipeline, with a cache."""

    def __init__(self, *, encodes_texts_apart: bool, max_cached: int = MAX_ENTRIES) -> None:
        """`encodes_texts_apart`: the pipeline encodes prompts and negative prompts in the same way, and returns
        alternately a tensor for the prompt and one for the negative prompt, as Stable Diffusion's pipelines do. Then
        each text of a batch is encoded by itself, so that its embedding does not depend on the others.
        """
        self._encodes_texts_apart = encodes_texts_apart
        self._loras: Sequence[Lora] = ()
        self._embeddings = PromptEmbeddingCache(max_cached)

    def use_loras(self, loras: Sequence[Lora]) -> None:
        """Clears the cache when the LoRAs change, because they change text encoders too."""
        if tuple(loras) != tuple(self._loras):
            self._loras = loras
            self._embeddings.clear()

    @contextmanager
    def cached(self, pipe: Any, dtype: torch.dtype, request: GenerationRequest) -> Iterator[None]:
        """Inside the block, the pipeline gets its embeddings from here. `dtype` is the precision of the model."""
        encode = getattr(pipe, "encode_prompt", None)
        if encode is None:
            yield
            return
        signature = inspect.signature(encode)

        def encode_once(*positional: Any, **named: Any) -> PromptEmbedding:
            arguments = signature.bind(*positional, **named).arguments
            device = arguments.get("device") or pipe._execution_device
            if not all(_is_plain(value) for value in arguments.values()):
                return encode(**arguments)
            if self._encodes_texts_apart:
                texts = _Texts(self._embeddings, pipe, encode, dtype, request)
                return moved(texts.pairs(arguments), device)
            return moved(self._embeddings.get(*_call(encode, dtype, arguments)), device)

        pipe.encode_prompt = encode_once
        try:
            yield
        finally:
            del pipe.encode_prompt


def _call(encode: Any, dtype: torch.dtype, arguments: dict[str, Any]) -> tuple[Hashable, Callable[[], PromptEmbedding]]:
    """A key, and what it stands for."""
    key = (dtype, repr(sorted((name, value) for name, value in arguments.items() if name != "device")))
    # Some pipelines change the list of prompts that they get.
    copies = {name: list(value) if isinstance(value, list) else value for name, value in arguments.items()}
    return key, lambda: encode(**copies)


@dataclass(frozen=True)
class _Texts:
    """The texts of one pipeline call, each encoded by itself."""

    embeddings: PromptEmbeddingCache
    pipe: Any
    encode: Any
    dtype: torch.dtype
    request: GenerationRequest

    def pairs(self, arguments: dict[str, Any]) -> tuple[torch.Tensor | None, ...]:
        """For the prompts and for the negative prompts, alternately."""
        prompts = _as_list(arguments["prompt"])
        negatives = _as_list(arguments.get("negative_prompt"))
        negatives = negatives * (len(prompts) // len(negatives))
        positive = [self._one(text) for text in prompts]
        is_guided = arguments.get("do_classifier_free_guidance")
        both = zip(negatives, positive, strict=True)
        negative = [self._negative(text, embedding) for text, embedding in both] if is_guided else []
        length = max(embedding[0].shape[1] for embedding in (*positive, *negative))
        slots, negative_slots = (
            [torch.cat(parts) for parts in zip(*(self._extended(one, length) for one in embeddings), strict=True)]
            for embeddings in (positive, negative)
        )
        return tuple(tensor for pair in itertools.zip_longest(slots, negative_slots) for tensor in pair)

    def _one(self, text: str) -> Sequence[torch.Tensor]:
        syntax, clip_skip = self.request.prompt_syntax, self.request.clip_skip

        def encode() -> PromptEmbedding:
            if syntax is PromptSyntax.WEIGHTED:
                return encode_sections(self.pipe, parse_weights(text), clip_skip)
            if clip_skip is not None:
                return encode_sections(self.pipe, ((WeightedText(text),),), clip_skip, max_chunks=1)
            return self._plain(text)

        embedding: Sequence[torch.Tensor] = self.embeddings.get((text, syntax, clip_skip, self.dtype), encode)
        return embedding

    @torch.no_grad()
    def _plain(self, text: str) -> tuple[torch.Tensor, ...]:
        device = self.pipe._execution_device
        embeddings = self.encode(prompt=text, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False)
        # The embeddings of the negative prompt lie in between; here they are None.
        return tuple(tensor for tensor in embeddings if tensor is not None)

    def _negative(self, text: str | None, positive: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        # As in the pipeline of Stable Diffusion XL; the others have no such option.
        if text is None and getattr(self.pipe.config, "force_zeros_for_empty_prompt", False):
            return [torch.zeros_like(tensor) for tensor in positive]
        return self._one(text or "")

    def _extended(self, embedding: Sequence[torch.Tensor], length: int) -> Sequence[torch.Tensor]:
        """Followed by empty texts: all texts of a pipeline call need equally many tokens."""
        text, *pooled = embedding
        if text.shape[1] == length:
            return embedding
        empty = self._one("")[0]
        return torch.cat([text, *[empty] * ((length - text.shape[1]) // empty.shape[1])], dim=1), *pooled


def _is_plain(value: Any) -> bool:
    items = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(item, _PLAIN) for item in items)


def _as_list(texts: Any) -> list[Any]:
    return texts if isinstance(texts, list) else [texts]
