"""Encodes prompts for CLIP: also with weights and of any length, with the arithmetic of AUTOMATIC1111's web UI.

compel, the library for weights, has a syntax and an arithmetic of its own: the same prompt would give other images than
in the tools whose prompts people paste.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import transformers

from shared.jobs.types import PromptSyntax
from shared.jobs.web_ui.prompt_weights import Section, parse_weights

#: Tokens that are encoded together, each with its weight.
Chunk = list[tuple[int, float]]
#: A comma at most so many tokens before the end of a chunk ends it, so that no phrase is divided.
COMMA_DISTANCE = 20
#: Encoders see one chunk at a time, usually 75 tokens. More chunks would slow down every step.
MAX_CHUNKS = 16

_WITH_POOLING = transformers.CLIPTextModelWithProjection


@dataclass(frozen=True)
class Chunker:
    tokenizer: Any

    @property
    def length(self) -> int:
        """Of a chunk, without the markers at both ends."""
        length: int = self.tokenizer.model_max_length - 2
        return length

    def plain(self, text: str) -> Chunk:
        """Of a text without weights, as much as the encoder reads."""
        return [(token, 1.0) for token in self._tokens(text)[: self.length]]

    def chunks(self, sections: Sequence[Section]) -> list[Chunk]:
        """At least one. A BREAK at the end begins none."""
        first, *others = sections if sections[-1] or len(sections) == 1 else sections[:-1]
        return [chunk for section in (first, *others) for chunk in self._section(section)]

    def padded_tokens(self, chunk: Chunk) -> list[int]:
        tokenizer, missing = self.tokenizer, self.length - len(chunk)
        # The marker of the end comes first, whatever the rest is filled with.
        ending = [tokenizer.eos_token_id, *[tokenizer.pad_token_id] * missing]
        return [tokenizer.bos_token_id, *(token for token, _ in chunk), *ending]

    def padded_weights(self, chunk: Chunk) -> list[float]:
        return [1.0, *(weight for _, weight in chunk), *[1.0] * (self.length - len(chunk) + 1)]

    def ignored_text(self, prompt: str, *, is_weighted: bool) -> str:
        """What follows the tokens that are encoded."""
        tokens = self._tokens(prompt)[self.length :]
        if is_weighted:
            tokens = [token for chunk in self.chunks(parse_weights(prompt))[MAX_CHUNKS:] for token, _ in chunk]
        text: str = self.tokenizer.decode(tokens).strip()
        return text

    def _section(self, section: Section) -> list[Chunk]:
        chunks: list[Chunk] = [[]]
        for part in section:
            for token in self._tokens(part.text):
                if len(chunks[-1]) == self.length:
                    chunks.append([] if token == self._comma else self._phrase_at_end(chunks[-1]))
                chunks[-1].append((token, part.weight))
        return chunks

    def _tokens(self, text: str) -> Sequence[int]:
        tokens: Sequence[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return tokens

    def _phrase_at_end(self, chunk: Chunk) -> Chunk:
        """Remove and return the beginning of the next chunk: what follows the last comma, unless that is far away."""
        last = [token for token, _ in reversed(chunk[-COMMA_DISTANCE:])]
        start = len(chunk) - (last.index(self._comma) if self._comma in last else 0)
        phrase = chunk[start:]
        del chunk[start:]
        return phrase

    @cached_property
    def _comma(self) -> int | None:
        """None for tokenizers that do not know it."""
        comma: int | None = self.tokenizer.get_vocab().get(",</w>")
        return comma


@torch.no_grad()
def encode_text(pipe: Any, text: str, syntax: PromptSyntax | None, clip_skip: int | None) -> list[torch.Tensor]:
    """The embedding of a prompt as a batch of one, and for Stable Diffusion XL its pooled embedding.

    `clip_skip` has no effect on Stable Diffusion XL, which always uses the last layer but one.
    """
    embeddings: list[torch.Tensor] = []
    pooled: list[torch.Tensor] = []
    encoders = clip_encoders(pipe)
    is_xl = isinstance(encoders[-1][1], _WITH_POOLING)
    for tokenizer, encoder in encoders:
        chunker, parts = Chunker(tokenizer), []
        is_weighted = syntax is PromptSyntax.WEIGHTED
        chunks = chunker.chunks(parse_weights(text))[:MAX_CHUNKS] if is_weighted else [chunker.plain(text)]
        for number, chunk in enumerate(chunks):
            tokens = torch.tensor([chunker.padded_tokens(chunk)], device=pipe._execution_device)
            output = encoder(tokens, output_hidden_states=True)
            hidden = output.hidden_states[-2] if is_xl else _layer(encoder, output, clip_skip or 1)
            parts.append(_weighted(hidden, chunker.padded_weights(chunk)))
            if number == 0 and isinstance(encoder, _WITH_POOLING):
                pooled = [output.text_embeds]
        embeddings.append(torch.cat(parts, dim=1))
    return [torch.cat(embeddings, dim=-1), *pooled]


def extended(
    groups: Sequence[Sequence[list[torch.Tensor]]], encode: Callable[[str], list[torch.Tensor]]
) -> list[list[list[torch.Tensor]]]:
    """Embeddings of equal length, as a pipeline needs them: short ones are followed by those of an empty text."""
    length = max(embedding[0].shape[1] for group in groups for embedding in group)

    def extend(embedding: list[torch.Tensor]) -> list[torch.Tensor]:
        text, *pooled = embedding
        if text.shape[1] == length:
            return embedding
        empty = encode("")[0]
        return [torch.cat([text, *[empty] * ((length - text.shape[1]) // empty.shape[1])], dim=1), *pooled]

    return [[extend(embedding) for embedding in group] for group in groups]


def clip_encoders(pipe: Any) -> list[tuple[Any, Any]]:
    """Tokenizers with their text encoders, where CLIP alone reads the prompts."""
    ends = ("", "_2")
    parts = [(getattr(pipe, f"tokenizer{end}", None), getattr(pipe, f"text_encoder{end}", None)) for end in ends]
    return [(tokenizer, encoder) for tokenizer, encoder in parts if encoder is not None]


def _layer(encoder: Any, output: Any, clip_skip: int) -> torch.Tensor:
    """The normalized output of a layer, counted from the last."""
    if clip_skip == 1:
        return output.last_hidden_state  # type: ignore[no-any-return]
    # The first of the hidden states is the input of the first layer.
    state = output.hidden_states[-min(clip_skip, len(output.hidden_states) - 1)]
    # transformers 5 has moved the layer.
    return getattr(encoder, "text_model", encoder).final_layer_norm(state)  # type: ignore[no-any-return]


def _weighted(hidden: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Multiplied by the weights, with the mean that it had before."""
    if all(weight == 1 for weight in weights):
        return hidden
    before = hidden.float()
    after = before * torch.tensor(weights, device=hidden.device)[None, :, None]
    mean = after.mean()
    return (after * (before.mean() / mean) if mean else after).to(hidden.dtype)
