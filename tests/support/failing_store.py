"""A store that fails once, as Redis may at any moment."""

from collections.abc import Sequence
from typing import Any, TypeVar

from shared.redis.store import Operation, Store, connect

T = TypeVar("T")


class FailingStore(Store):
    """Raises each of the errors, by script, when that is run for the first time; nothing is done then."""

    def __init__(self, url: str, errors: dict[str, Exception]) -> None:
        super().__init__(connect(url))
        self.errors = errors

    def run(self, operation: Operation[T]) -> T:
        self._fail(operation)
        return super().run(operation)

    def run_all(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        for operation in operations:
            self._fail(operation)
        return super().run_all(operations)

    def _fail(self, operation: Operation[Any]) -> None:
        if (error := self.errors.pop(operation.script, None)) is not None:
            raise error
