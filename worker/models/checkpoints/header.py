"""Reads the header of a .safetensors file: names, types and shapes of its tensors, and its metadata; never weights."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from worker.models.checkpoints.tensor_names import Role, sort_tensors

#: The largest known headers, with the captions of a whole training set, have a few megabytes.
MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 100_000
#: How what git leaves of a large file begins where Git LFS is not installed.
LFS_POINTER = b"version "
MAX_METADATA_VALUE, MAX_TEXT, MAX_TRIGGER_WORDS = 4096, 200, 32
#: Of a number, by the name of its type.
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
BITS |= {"U64": 64, "U32": 32, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F4": 4}


class InvalidHeader(Exception):
    """The message is one sentence about the file."""


class IncompleteFile(InvalidHeader):
    """The file is shorter than its header says: it is being copied, or was cut off."""


@dataclass(frozen=True, slots=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Where its bytes begin in the file."""
    length: int


def count_parameters(tensors: Iterable[Tensor]) -> int:
    """How many numbers they hold."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


@dataclass(frozen=True)
class ModelSpec:
    """What authors write into a header: ModelSpec, and what training tools store."""

    title: str | None = None
    licence: str | None = None
    trigger_words: tuple[str, ...] = ()
    prediction_type: str | None = None
    """epsilon or v_prediction."""


@dataclass(frozen=True)
class Header:
    tensors: Mapping[str, Tensor]
    spec: ModelSpec

    @cached_property
    def parts(self) -> Mapping[Role, Mapping[str, Tensor]]:
        """By role: each tensor by its name within the part."""
        sorted_names = sort_tensors(self.tensors)
        return {
            role: {inner: self.tensors[name] for inner, name in names.items()} for role, names in sorted_names.items()
        }


def read_header(path: Path) -> Header:
    """Raises InvalidHeader, and OSError if the file cannot be read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        prefix = file.read(8)
        if len(prefix) < 8:
            raise IncompleteFile("The file is empty or cut off.")
        if prefix == LFS_POINTER:
            raise InvalidHeader(
                "It is a pointer of Git LFS, not the file itself: run `git lfs pull` in its repository."
            )
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES:
            raise InvalidHeader(
                f"The header would have {length:,} bytes, more than the limit of {MAX_HEADER_BYTES >> 20} MB; this is "
                "not a safetensors file, or a damaged one."
            )
        if size < 8 + length:
            raise IncompleteFile("The file is cut off within its header.")
        text = file.read(length)
    return _parse(text, size)


def _parse(text: bytes, size: int) -> Header:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InvalidHeader("The header is not valid JSON; this is not a safetensors file, or a damaged one.")
    metadata = content.pop("__metadata__", None)
    if len(content) > MAX_TENSORS:
        raise InvalidHeader(f"The header lists {len(content):,} tensors, more than the limit of {MAX_TENSORS:,}.")
    tensors, expected = {}, 8 + len(text)
    for name, entry in content.items():
        tensors[name] = tensor = _tensor(name, entry, 8 + len(text))
        expected = max(expected, tensor.start + tensor.length)
    if size < expected:
        raise IncompleteFile(f"The file is incomplete: it has {size:,} of {expected:,} bytes.")
    if size > expected:
        raise InvalidHeader(f"The file has {size - expected:,} bytes more than its header says; it is damaged.")
    return Header(tensors, _spec(metadata))


def _tensor(name: str, entry: Any, first: int) -> Tensor:
    """`first` is where the bytes of all tensors begin."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(stop)]} if (
            dtype in BITS and all(isinstance(side, int) and 0 <= side < 1 << 40 for side in shape) and len(shape) < 9
        ):
            if 0 <= start <= stop and (math.prod(shape) * BITS[dtype] + 7) // 8 == stop - start:
                return Tensor(dtype, tuple(shape), first + start, stop - start)
    raise InvalidHeader(f"The header describes the tensor {name[:80]!r} wrongly; the file is damaged.")


def _spec(content: Any) -> ModelSpec:
    """Of short texts; training tools store megabytes of captions beside them."""
    values = content.items() if isinstance(content, dict) else ()
    metadata = {key: value for key, value in values if isinstance(value, str) and len(value) <= MAX_METADATA_VALUE}

    def text(*keys: str) -> str | None:
        found = (_line(metadata.get(key, "")) for key in keys)
        return next(filter(None, found), None)

    words = (_line(word) for word in metadata.get("modelspec.trigger_phrase", "").split(","))
    prediction = text("modelspec.prediction_type", "modelspec.predict_type") or ""
    return ModelSpec(
        title=text("modelspec.title", "ss_output_name"),
        licence=text("modelspec.license", "modelspec.licence"),
        trigger_words=tuple(dict.fromkeys(filter(None, words)))[:MAX_TRIGGER_WORDS],
        prediction_type={"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}.get(prediction),
    )


def _line(text: str) -> str:
    """One line without control characters."""
    return re.sub(r"[\x00-\x1f\x7f\s]+", " ", text).strip()[:MAX_TEXT]
