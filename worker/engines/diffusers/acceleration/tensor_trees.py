"""Tensors inside the arguments and results of a model: lists, tuples and dicts, nested."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch

#: Arguments of these types are part of what a captured graph was captured for.
_CONSTANTS = (bool, int, float, str, type(None), torch.dtype, torch.device)


class NotATree(TypeError):
    """Something else than tensors, constants and containers of them."""


def tensors_in(tree: Any) -> Iterator[torch.Tensor]:
    match tree:
        case torch.Tensor():
            yield tree
        case dict():
            for value in tree.values():
                yield from tensors_in(value)
        case list() | tuple():
            for value in tree:
                yield from tensors_in(value)
        case _:
            return


def signature_of(tree: Any) -> Hashable:
    """Equal for trees whose tensors differ in their values only. Raises NotATree."""
    match tree:
        case torch.Tensor():
            return (tuple(tree.shape), tree.stride(), tree.dtype, tree.device)
        case dict():
            return ("dict", tuple((key, signature_of(value)) for key, value in tree.items()))
        case list() | tuple():
            return (type(tree).__name__, tuple(signature_of(value) for value in tree))
        case _ if isinstance(tree, _CONSTANTS):
            return (type(tree).__name__, tree)
        case _:
            raise NotATree(type(tree).__name__)


def mapped(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same tree with other tensors. Raises NotATree for containers that cannot be built anew."""
    match tree:
        case torch.Tensor():
            return change(tree)
        case dict() if type(tree) is dict:
            return {key: mapped(value, change) for key, value in tree.items()}
        case list() | tuple() if type(tree) in (list, tuple):
            return type(tree)(mapped(value, change) for value in tree)
        case _ if isinstance(tree, _CONSTANTS):
            return tree
        case _:
            raise NotATree(type(tree).__name__)
