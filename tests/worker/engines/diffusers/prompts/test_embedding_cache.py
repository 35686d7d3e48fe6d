"""The cache of prompt embeddings, and its limits."""

from collections.abc import Callable

import pytest
import torch

from worker.engines.diffusers.prompts import encoding
from worker.engines.diffusers.prompts.encoding import PromptEmbedding, PromptEmbeddingCache


def reading(read: list[str], text: str) -> Callable[[], PromptEmbedding]:
    def read_it() -> PromptEmbedding:
        read.append(text)
        return (torch.zeros(1, 1000),)

    return read_it


def encoded_of(cache: PromptEmbeddingCache, prompts: str) -> str:
    """The prompts (one letter each) that were not cached."""
    read: list[str] = []
    for prompt in prompts:
        cache.get(prompt, reading(read, prompt))
    return "".join(read)


def test_the_number_of_cached_prompts_is_limited() -> None:
    cache = PromptEmbeddingCache(max_entries=3)

    assert encoded_of(cache, "abcabc") == "abc"
    # The least recently used one is evicted.
    assert encoded_of(cache, "adcab") == "db"


def test_the_size_of_the_cache_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_BYTES", 8000)
    cache = PromptEmbeddingCache()

    assert encoded_of(cache, "abab") == "ab"
    assert encoded_of(cache, "cb") == "c"
    assert encoded_of(cache, "a") == "a"


def test_evicted_prompts_are_encoded_again_and_free_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_BYTES", 8000)
    cache = PromptEmbeddingCache()
    encoded_of(cache, "ab")

    cache.clear()

    assert encoded_of(cache, "abab") == "ab"


def test_a_cache_of_size_zero_caches_nothing() -> None:
    assert encoded_of(PromptEmbeddingCache(max_entries=0), "aa") == "aa"
