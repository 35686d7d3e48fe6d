"""Reads the format in which n8n stores executions: one list, whose texts in objects and lists are positions in it."""

from typing import Any


def unflatten(values: list[Any]) -> Any:
    """The object at position 0, if there is one yet. A value inside itself becomes None."""
    return _value(values, 0, frozenset()) if values else None


def _value(values: list[Any], position: int, inside: frozenset[int]) -> Any:
    if position in inside:
        return None
    outer = inside | {position}
    match values[position]:
        case dict() as fields:
            return {name: _reference(values, value, outer) for name, value in fields.items()}
        case list() as entries:
            return [_reference(values, value, outer) for value in entries]
        case value:
            return value


def _reference(values: list[Any], value: Any, inside: frozenset[int]) -> Any:
    return _value(values, int(value), inside) if isinstance(value, str) else value
