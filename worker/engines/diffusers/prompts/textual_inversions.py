"""Textual inversion: files with vectors that a text encoder reads where a prompt has the name of the file."""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from shared.jobs.requests import GenerationRequest
from worker.engines.base import JobWatch
from worker.engines.diffusers.loading.pipelines import Pipelines
from worker.engines.diffusers.loras.lora_files import UnusableFile, walk_files
from worker.engines.diffusers.prompts.clip_encoding import clip_encoders
from worker.models.contents.fingerprint import revision_of
from worker.models.families import Family
from worker.models.weight_files import SUFFIX

#: More than a text encoder reads would be of no use.
MAX_VECTORS_OF_A_FILE = 75
MAX_NAME = 200
#: The names of the vectors for each text encoder, by the tools that write files for several.
_NAMES = (("clip_l", "text_encoders_0"), ("clip_g", "text_encoders_1"))
#: Limit for all loaded files together.
MAX_VECTORS = 1024
#: The words that stand for vectors. They do not occur in prompts, and tokenizers take each as one token.
_WORD = re.compile(r"<embedding-(\d+)>(?: ?<embedding-\d+>)*")


def takes_embeddings(pipeline: Any, family: Family) -> bool:
    """Only where CLIP alone reads the prompts: other text encoders would read the words that stand for vectors."""
    return family.reads_with_clip and hasattr(pipeline, "load_textual_inversion")


def find_embeddings(folder: Path | None) -> dict[str, Path]:
    """Files by the words that stand for them in prompts: their names without the ending, whatever the sub-folder."""
    found: dict[str, Path] = {}
    for inner, files in walk_files(folder) if folder else ():
        for file in files:
            name = unicodedata.normalize("NFC", file[: -len(SUFFIX)])
            if name.isprintable() and name == name.strip() and 0 < len(name) <= MAX_NAME and "<" not in name:
                found.setdefault(name, inner / file)
    return dict(sorted(found.items()))


def read_vectors(file: Path, widths: Sequence[int]) -> list[torch.Tensor]:
    """Those for each text encoder, one vector a row. Raises OSError, SafetensorError and UnusableFile."""
    with safe_open(file, "pt") as opened:
        keys = list(opened.keys())
        if len(widths) > 1:
            chosen = [next((key for key in names if key in keys), None) for names in _NAMES[: len(widths)]]
        else:
            chosen = [keys[0] if len(keys) == 1 else None]
        found = [key for key in chosen if key is not None]
        shapes = [opened.get_slice(key).get_shape() for key in found]
        fits = len(found) == len(widths) and all(
            len(shape) in (1, 2) and shape[-1] == width for shape, width in zip(shapes, widths, strict=True)
        )
        if not fits:
            raise UnusableFile("it does not fit the model")
        counts = {1 if len(shape) == 1 else shape[0] for shape in shapes}
        if len(counts) > 1 or not 0 < min(counts) <= MAX_VECTORS_OF_A_FILE:
            raise UnusableFile(f"it must have 1 to {MAX_VECTORS_OF_A_FILE} vectors")
        return [opened.get_tensor(key).float().reshape(-1, width) for key, width in zip(found, widths, strict=True)]


@dataclass(frozen=True)
class _Loaded:
    version: str
    """Of its file."""
    first: int
    count: int

    @property
    def words(self) -> str:
        return " ".join(f"<embedding-{number}>" for number in range(self.first, self.first + self.count))


class _Encoder:
    """A text encoder, and the vectors that its tokenizer's additional tokens stand for."""

    def __init__(self, tokenizer: Any, encoder: Any) -> None:
        words = [f"<embedding-{number}>" for number in range(MAX_VECTORS)]
        tokenizer.add_tokens(words)
        self._first: int = tokenizer.convert_tokens_to_ids(words[0])
        self._layer = encoder.get_input_embeddings()
        self.width: int = self._layer.embedding_dim
        self._vectors = torch.zeros(MAX_VECTORS, self.width)
        self._layer.forward = functools.partial(self._read, self._layer.forward)

    def put(self, first: int, vectors: torch.Tensor) -> None:
        self._vectors[first : first + len(vectors)] = vectors

    def _read(self, forward: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        is_ours = tokens >= self._first
        if not is_ours.any():
            return forward(tokens)
        # The layer has no rows for them. Unlike more rows, this survives offloading and other precisions.
        read = forward(tokens.masked_fill(is_ours, 0))
        read[is_ours] = self._vectors[(tokens[is_ours] - self._first).cpu()].to(read)
        return read


@dataclass
class TextualInversions:
    """The embeddings of one model. Each is loaded when a prompt names it first."""

    pipelines: Pipelines
    folder: Path | None
    forget: Callable[[], None]
    """Called when words begin to stand for other vectors, to clear caches."""
    _loaded: dict[str, _Loaded] = field(default_factory=dict)
    _used: int = 0

    def read(self, requests: Sequence[GenerationRequest], watches: Sequence[JobWatch]) -> Iterator[GenerationRequest]:
        """The requests of a batch as the text encoders read them. Warns jobs of embeddings without effect."""
        files = find_embeddings(self.folder) if takes_embeddings(self.pipelines.text, self.pipelines.family) else {}
        # Not between the requests of a batch: their words must stand for different vectors.
        if self._used > MAX_VECTORS // 2:
            self._loaded, self._used = {}, 0
            self.forget()
        for request, watch in zip(requests, watches, strict=True):
            changes = {
                name: self._words_in(text, files, watch.add_warning)
                for name in ("prompt", "negative_prompt")
                if files and (text := getattr(request, name))
            }
            yield request.model_copy(update=changes) if changes else request

    def readable(self, text: str) -> str:
        """With the names of the embeddings in place of the words for their vectors."""
        names = {str(one.first): name for name, one in self._loaded.items()}
        return _WORD.sub(lambda match: names.get(match[1], match[0]), text)

    def _words_in(self, text: str, files: Mapping[str, Path], add_warning: Callable[[str], None]) -> str:
        named = {name.casefold(): name for name in reversed([*files])}

        def words(match: re.Match[str]) -> str:
            name = named.get(match[1].casefold())
            if name is None:
                return match[0]
            try:
                return self._require(name, files[name]).words
            except UnusableFile as error:
                add_warning(f"the embedding {name} was read as a word: {error}")
            return match[0]

        return _pattern(tuple(files)).sub(words, _WORD.sub(lambda match: match[0].replace("-", " "), text))

    def _require(self, name: str, file: Path) -> _Loaded:
        """Raises UnusableFile."""
        try:
            version = revision_of(file)
            loaded = self._loaded.get(name)
            if loaded is None or loaded.version != version:
                loaded = self._loaded[name] = self._load(file, version)
        except (OSError, SafetensorError):
            raise UnusableFile("its file is damaged") from None
        return loaded

    def _load(self, file: Path, version: str) -> _Loaded:
        encoders = self._encoders
        vectors = read_vectors(file, [encoder.width for encoder in encoders])
        first, count = self._used, len(vectors[0])
        if first + count > MAX_VECTORS:
            raise UnusableFile("the prompts name too many others")
        for encoder, found in zip(encoders, vectors, strict=True):
            encoder.put(first, found)
        self._used += count
        return _Loaded(version, first, count)

    @functools.cached_property
    def _encoders(self) -> list[_Encoder]:
        return [_Encoder(tokenizer, encoder) for tokenizer, encoder in clip_encoders(self.pipelines.text)]


@functools.lru_cache(maxsize=8)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Finds names as whole words, also in the spelling of ComfyUI."""
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?<![\w-])(?:embedding:)?({longest_first})(?![\w-])", re.IGNORECASE)
