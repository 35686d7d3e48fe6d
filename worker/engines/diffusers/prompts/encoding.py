"""Encodes each prompt once, in place of the pipelines themselves: prompts repeat, negative prompts even more."""

import inspect
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from shared.jobs.requests import GenerationRequest
from worker.engines.diffusers.acceleration.tensor_trees import tensors_in
from worker.engines.diffusers.prompts.clip_encoding import encode_text, extended

#: Tensors, in whatever tuples and lists the pipeline returns.
PromptEmbedding = Any
#: One text takes 0.3 MB for Stable Diffusion XL in half precision, and 8 MB for FLUX.2 Klein 4B.
MAX_ENTRIES, MAX_BYTES = 256, 128 << 20
#: Arguments that may be part of a key. Others, such as images, belong to a single request.
_PLAIN = (str, int, float, bool, type(None), torch.device, torch.dtype)


class PromptEmbeddingCache:
    """The most recently used embeddings, in main memory: the device's memory is for images."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[Hashable, PromptEmbedding] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, encode: Callable[[], PromptEmbedding]) -> PromptEmbedding:
        """The embedding of this key: from main memory, or else what `encode` returns, where it is."""
        kept = self._entries.pop(key, None)
        embedding = encode() if kept is None else kept
        if kept is None:
            kept = moved(embedding, torch.device("cpu"))
            self._bytes += _size(kept)
        self._entries[key] = kept
        while len(self._entries) > self._max_entries or self._bytes > MAX_BYTES:
            self._bytes -= _size(self._entries.popitem(last=False)[1])
        return embedding

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0


class Prompts:
    """Stands in for `encode_prompt` of a pipeline, with a cache."""

    def __init__(self, *, encodes_texts_apart: bool, max_cached: int) -> None:
        """`encodes_texts_apart`: the pipeline encodes prompts and negative prompts in the same way, and returns
        alternately a tensor for the prompt and one for the negative prompt, as Stable Diffusion's pipelines do. Then
        each text of a batch is encoded by itself, so that its embedding does not depend on the others.
        """
        self._encodes_texts_apart = encodes_texts_apart
        self._embeddings = PromptEmbeddingCache(max_cached)

    def forget(self) -> None:
        """Texts mean something else from now on."""
        self._embeddings.clear()

    @contextmanager
    def cached(self, pipe: Any, dtype: torch.dtype, request: GenerationRequest) -> Iterator[None]:
        """Inside the block, the pipeline gets its embeddings from here. `dtype` is the precision of the model.

        The request tells how its texts are read, and with which LoRAs: they change text encoders too.
        """
        encode = getattr(pipe, "encode_prompt", None)
        if encode is None:
            yield
            return
        signature, state = inspect.signature(encode), (dtype, tuple(request.loras or ()))

        def encode_once(*positional: Any, **named: Any) -> PromptEmbedding:
            arguments = signature.bind(*positional, **named).arguments
            device = arguments.get("device") or pipe._execution_device
            if not all(_is_plain(value) for value in arguments.values()):
                return encode(**arguments)
            if self._encodes_texts_apart:
                return self._pairs(pipe, state, arguments, request, device)
            key = (state, repr(sorted((name, value) for name, value in arguments.items() if name != "device")))
            # Some pipelines change the list of prompts that they get.
            copies = {name: list(value) if isinstance(value, list) else value for name, value in arguments.items()}
            return moved(self._embeddings.get(key, lambda: encode(**copies)), device)

        pipe.encode_prompt = encode_once
        try:
            yield
        finally:
            del pipe.encode_prompt

    def _pairs(
        self, pipe: Any, state: Hashable, arguments: dict[str, Any], request: GenerationRequest, device: torch.device
    ) -> PromptEmbedding:
        prompts = _as_list(arguments["prompt"])
        negatives = _as_list(arguments.get("negative_prompt")) * (len(prompts) if len(prompts) > 1 else 1)

        def one(text: str) -> list[torch.Tensor]:
            reading = text, request.prompt_syntax, request.clip_skip
            embedding = self._embeddings.get((state, *reading), lambda: encode_text(pipe, *reading))
            return [tensor.to(device) for tensor in embedding]

        positive = [one(text) for text in prompts]
        negative: list[list[torch.Tensor]] = []
        if arguments.get("do_classifier_free_guidance"):
            negative = [
                # As in the pipeline of Stable Diffusion XL; the others have no such option.
                [torch.zeros_like(tensor) for tensor in embedding]
                if text is None and getattr(pipe.config, "force_zeros_for_empty_prompt", False)
                else one(text or "")
                for text, embedding in zip(negatives, positive, strict=False)
            ]
        positive, negative = extended([positive, negative], one)
        slots = [torch.cat(parts) for parts in zip(*positive, strict=True)]
        negative_slots = [torch.cat(parts) for parts in zip(*negative, strict=True)]
        return tuple(tensor for pair in itertools.zip_longest(slots, negative_slots) for tensor in pair)


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (
        isinstance(value, list | tuple) and all(isinstance(item, _PLAIN) for item in value)
    )


def _as_list(texts: Any) -> list[Any]:
    return texts if isinstance(texts, list) else [texts]


def moved(embedding: PromptEmbedding, device: torch.device) -> PromptEmbedding:
    """A copy of it with all tensors on this device."""
    match embedding:
        case torch.Tensor():
            return embedding.to(device)
        case tuple() | list():
            return type(embedding)(moved(part, device) for part in embedding)
        case _:
            return embedding


def _size(embedding: PromptEmbedding) -> int:
    return sum(tensor.nbytes for tensor in tensors_in(embedding))
